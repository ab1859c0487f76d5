"""A small tokenizer.json of the kind that SigLIP 2's repositories hold."""

import os
import string
from collections.abc import Sequence

BLANK = "\u2581"


def write_tokenizer(path: str | os.PathLike[str], special: Sequence[str] = ("<pad>", "<eos>", "<bos>", "<unk>")) -> str:
    """Byte pairs over lower-case letters: special tokens, a to z, the blank, "ca" and "cat". Returns the path."""
    import tokenizers

    words = [*special, *string.ascii_lowercase, BLANK, "ca", "cat"]
    vocabulary = {word: index for index, word in enumerate(words)}
    model = tokenizers.models.BPE(vocabulary, [("c", "a"), ("ca", "t")], unk_token=special[-1], fuse_unk=True)
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = tokenizers.normalizers.Replace(" ", BLANK)
    tokenizer.add_special_tokens(list(special))
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing("<bos> $A", special_tokens=[("<bos>", 2)])
    tokenizer.save(str(path))
    return str(path)
