"""No password leaves in a text: in addresses of every form, and those of the environment."""

import re

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from training.core.shown import has_login, shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://bob:CANARY@host:5000/x", "http://***@host:5000/x"),
        ("http://bob:CAN@ARY@host", "http://***@host"),
        ("http://bob:CAN/ARY@host/x", "http://***@host/x"),
        ("http://bob:CAN:A#R?Y@host/x", "http://***@host/x"),
        ("http://CANARY@host", "http://***@host"),
        ("at 'postgresql+psycopg2://a:CANARY@h/d': no", "at 'postgresql+psycopg2://***@h/d': no"),
        ("s3://key:CANARY@bucket/dvc", "s3://***@bucket/dvc"),
        ("https://h/?a=1&X-Amz-Signature=CANARY&b=2", "https://h/?a=1&X-Amz-Signature=***&b=2"),
        ("https://h/x?access_token=CANARY", "https://h/x?access_token=***"),
        ("http://host:5000/x@y", "http://host:5000/x@y"),
        ("s3://bucket/prefix@2", "s3://bucket/prefix@2"),
        ("write to a@b.org: http://host", "write to a@b.org: http://host"),
        ("/folder/x@sha256:00", "/folder/x@sha256:00"),
        ("stargan@champion", "stargan@champion"),
    ],
)
def test_a_login_in_an_address_is_hidden_and_nothing_else(text: str, expected: str) -> None:
    assert shown(text) == expected
    assert "CANARY" not in shown(text)


def test_secrets_of_the_environment_are_hidden_wherever_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As given and decoded; not the words of a short one, nor a file that a variable names."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://bob:CANARY%2F1@host")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "CANARY-TWO")
    monkeypatch.setenv("SOME_PASSWORD", "demo")
    said = shown("{'password': 'CANARY/1'} CANARY%2F1 key=CANARY-TWO; demo")
    assert said == "{'password': '***'} *** key=***; demo"


visible = st.characters(exclude_categories=("Z", "C"), exclude_characters="'\"<>")


@example("00000#", "http")
@given(st.text(visible, min_size=6), st.sampled_from(["http", "s3", "postgresql+psycopg2"]))
def test_no_password_of_visible_characters_is_shown(password: str, scheme: str) -> None:
    assume(not re.match(r"\d{1,5}/", password))  # as host:port/path, which is no password
    assume(not re.search("@[^@]*[/?#]", password))  # as user:password@host/database
    address = f"{scheme}://bob:{password}CANARY@host/x"
    assert "CANARY" not in shown(f"error: {address} failed")
    assert has_login(address)
