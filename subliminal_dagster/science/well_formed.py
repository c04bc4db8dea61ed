"""Text that every file can hold.

Belongs here: mending what JSON and YAML can say and UTF-8 cannot. Does not belong here: what a text means.
"""


def well_formed(text: str) -> str:
    r"""The text with U+FFFD for every half of a surrogate pair, which neither a file in UTF-8 nor a table can hold.

    JSON can say such a half ("\ud83d" where an emoji was cut), and a program that cuts text by UTF-16 units writes it.
    """
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
