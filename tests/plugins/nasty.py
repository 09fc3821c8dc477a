"""Names that people give to folders, classes, models and runs, and that some grammar refuses."""

from hypothesis import strategies as st

NASTY = (
    "faces.v2", "50%", "it's mine", 'say "x"', "both ' and \"", "a b", "a_b", "a/b", "a//b", "/a",
    "a:b", "a@b", "C:\\x", "a\\", "back`tick`", "smile?", "smile!", "café & co", "cafe & co",
    "50% grey (new)", "smile, open mouth", "开心", "悲伤", "愤怒", "😀", "👩‍👧", "Москва", "سعيد",
    "x" * 300, "开" * 300, "-rf", "--help", "a\nb", "a\r", "tab\there", "$(touch PWNED)",
    "; drop table runs", "-- x", "/* x", "x' OR '1'='1", "{{ 7 }}", "<b>", "__pycache__", ".", "..",
    "../x", " lead", "trail ", "CON", "nul.txt", "stargan.lock", "a\u2028b", "a\u00a0b", "\u202ea",
    "é", "e\u0301", "H+G", "H_G", "a__b", "A_B", "null", "0", "1e400", "", "\x00",
)  # fmt: skip

# Any text, often a nasty one; without surrogates, which no file or server takes.
texts = st.sampled_from(NASTY) | st.text(st.characters(exclude_categories=("Cs",)), max_size=40)
