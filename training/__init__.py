"""Library: a file here is a program (a verb), a folder is a room (a noun)."""
