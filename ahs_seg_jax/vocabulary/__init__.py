"""Class names, their prompts and tokens."""

from ahs_seg_jax.vocabulary.vocabulary import (
    IGNORE,
    SCENE_TEMPLATE,
    SYNONYM_RULES,
    TOKEN_BUCKETS,
    Vocabulary,
    first_synonym,
    hierarchy_pairs,
    imagenet_templates,
    names_beyond,
    packaged_names,
    plain_name,
    split_words,
    template_problems,
    words_of,
)

__all__ = [
    "IGNORE",
    "SCENE_TEMPLATE",
    "SYNONYM_RULES",
    "TOKEN_BUCKETS",
    "Vocabulary",
    "first_synonym",
    "hierarchy_pairs",
    "imagenet_templates",
    "names_beyond",
    "packaged_names",
    "plain_name",
    "split_words",
    "template_problems",
    "words_of",
]
