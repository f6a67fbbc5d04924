"""Content safety. In: a prompt, before the first step, and finished pixels. Out: verdicts, and what they lead to.

`base` the interface that third parties implement. Prompts: `rules` words of `rules.toml`, looked for in several
`reading`s; `minors` the rule that always holds; `prototypes` what the sentence means, by `sentences`' vectors, weighed
with the words. `pictures` the shipped picture check (open_nsfw), `policy` what settings, request and verdicts make of
it all. docs/safety.md.
"""

from impasto.engine.safety.base import PictureCheck, PromptCheck, Verdict
from impasto.engine.safety.pictures import Classifier, OpenNsfw, ScoredPictures
from impasto.engine.safety.policy import CONTENT_POLICY_MESSAGE, Safety
from impasto.engine.safety.prototypes import RulesAndPrototypes
from impasto.engine.safety.rules import Rules

__all__ = [
    "CONTENT_POLICY_MESSAGE",
    "Classifier",
    "OpenNsfw",
    "PictureCheck",
    "PromptCheck",
    "Rules",
    "RulesAndPrototypes",
    "Safety",
    "ScoredPictures",
    "Verdict",
]
