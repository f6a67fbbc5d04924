"""A prompt check of one's own: no competitor's mascot, and what impasto's own check says besides.

    PYTHONPATH=examples/safety-plugin IMPASTO_SAFETY_PROMPT_CHECK=house_rules:HouseRules impasto serve

Called with the server's SafetySettings; judges every prompt before anything is drawn.
"""

from impasto.engine.safety import RulesAndPrototypes, Verdict
from impasto.settings import SafetySettings

UNWANTED = ("clippy", "bonzi")


class HouseRules:
    def __init__(self, settings: SafetySettings) -> None:
        self._shipped = RulesAndPrototypes.load(settings.prompt_thresholds)

    def judge(self, prompt: str, *, tolerance: int) -> Verdict:
        if any(name in prompt.lower() for name in UNWANTED):
            return Verdict(True, 1.0, "mascot", "house rules: a mascot that is not ours")
        return self._shipped.judge(prompt, tolerance=tolerance)
