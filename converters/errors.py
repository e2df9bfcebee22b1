"""The base of all errors that the converters raise on purpose."""


class ConversionError(Exception):
    """Something that the user must read: which file, what is wrong with it, and what to do."""


def one_line(error: object) -> str:
    """Return the text of `error` as one line of at most 300 characters.

    Of an error inside a TorchScript program that is the last line, without the program's traceback.
    """
    text = str(error).strip()
    if "Traceback of TorchScript" in text:
        text = text.splitlines()[-1]
    return " ".join(text.split())[:300]
