"""Library: a file here is a program (a verb), a folder is a package (a noun)."""
