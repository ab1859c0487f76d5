"""What the server accepts, and how it says no: a status and one sentence."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Limits:
    """Of a request, and of the requests that are answered at the same time.

    An accepted image takes 3 bytes a pixel while it waits: `waiting` images of `megapixels` bound the memory.
    """

    upload_mb: int = 20  # of a file, 2**20 bytes, as browsers count
    megapixels: float = 16
    classes: int = 100
    name_length: int = 300  # letters of a name with its synonyms
    upload_seconds: float = 30  # from a request's first byte to its last
    seconds: float = 60  # from there to the answer
    waiting: int = 32  # requests that are answered at the same time; further ones are refused
    together: int = 8  # images with the same words that the model is called with at once


class Refused(Exception):
    """A request that is answered with this HTTP status and this sentence, which says what to change."""

    def __init__(self, status: int, sentence: str):
        super().__init__(sentence)
        self.status, self.sentence = status, sentence
