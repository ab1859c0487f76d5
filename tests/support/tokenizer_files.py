"""Small tokenizer.json files of the kinds that repositories of SigLIP 2 and MetaCLIP 2 hold."""

import os
import string
from collections.abc import Sequence

BLANK = "\u2581"
GEMMA, XLM_V = ("<pad>", "<eos>", "<bos>", "<unk>"), ("<s>", "<pad>", "</s>", "<unk>")


def write_tokenizer(path: str | os.PathLike[str], special: Sequence[str] = GEMMA) -> str:
    """Byte pairs over lower-case letters: special tokens, a to z, the blank, "ca" and "cat". Returns the path.

    What the file's own program would put around a text (`<bos>` alone; `<s>` and `</s>`) is in it, too.
    """
    import tokenizers

    words = [*special, *string.ascii_lowercase, BLANK, "ca", "cat"]
    vocabulary = {word: index for index, word in enumerate(words)}
    model = tokenizers.models.BPE(vocabulary, [("c", "a"), ("ca", "t")], unk_token=special[-1], fuse_unk=True)
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = tokenizers.normalizers.Replace(" ", BLANK)
    tokenizer.add_special_tokens(list(special))
    template, around = ("<bos> $A", ["<bos>"]) if "<bos>" in special else ("<s> $A </s>", ["<s>", "</s>"])
    named = [(token, vocabulary[token]) for token in around]
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(template, special_tokens=named)
    tokenizer.save(str(path))
    return str(path)
