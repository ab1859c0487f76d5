"""Class names, their prompts and tokens."""

from ahs_seg_jax.vocabulary.vocabulary import (
    IGNORE,
    IMAGENET_TEMPLATES,
    PACKAGED,
    SCENE_TEMPLATE,
    SYNONYM_RULES,
    TOKEN_BUCKETS,
    Vocabulary,
    first_synonym,
    hierarchy_pairs,
    template_problems,
)

__all__ = [
    "IGNORE",
    "IMAGENET_TEMPLATES",
    "PACKAGED",
    "SCENE_TEMPLATE",
    "SYNONYM_RULES",
    "TOKEN_BUCKETS",
    "Vocabulary",
    "first_synonym",
    "hierarchy_pairs",
    "template_problems",
]
