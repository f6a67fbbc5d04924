"""The prompt check: what it finds however it is written, what it lets pass, and what becomes of a flagged prompt."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from impasto.engine.engine import Engine
from impasto.engine.failure import Failure
from impasto.engine.job import JobResult
from impasto.engine.pipeline import Pixels
from impasto.engine.safety import CONTENT_POLICY_MESSAGE, Rules, Safety, Verdict
from impasto.errors import ConfigError
from impasto.settings import SafetySettings

from .conftest import Recorder, make_job

RULES = Rules.load(SafetySettings().prompt_thresholds)
UNSAFE = ("a bikini", "lingerie", "a nude portrait", "a sexual act", "pornography", "a gory scene", "a swastika")
MINORS = ("a nude child", "an undressed teen", "explicit picture of a 15 year old", "n.u.d.e ch1ld")


@pytest.mark.parametrize(
    "prompt", ["p0rn", "p.o.r.n", "p o r n", "pоrn", "ｐｏｒｎ", "po\u200brn", "PORN", "pooorn", "pórn"]
)
def test_a_word_in_disguise_is_found(prompt: str) -> None:
    assert RULES.judge(f"a {prompt} picture", tolerance=6).flagged


@pytest.mark.parametrize(
    "prompt",
    [
        "cock-a-doodle-doo",
        "a cock crowing at dawn",
        "Moby Dick, the white whale",
        "a blue tit on a branch",
        "a breast cancer ribbon",
        "grilled chicken breast",
        "a street in Scunthorpe",
        "Virginia Woolf reading",
        "a landscape after Gustave Courbet",
        "children playing football in 2024",
    ],
)
def test_harmless_words_pass_at_the_strictest_tolerance(prompt: str) -> None:
    assert not RULES.judge(prompt, tolerance=1).flagged


def test_a_laxer_tolerance_flags_no_more() -> None:
    for prompt in UNSAFE:
        flags = [RULES.judge(prompt, tolerance=tolerance).flagged for tolerance in range(1, 7)]
        assert flags == sorted(flags, reverse=True)
        assert flags[0]


class Words:
    """A third party's check."""

    def __init__(self, settings: SafetySettings) -> None:
        self.settings = settings

    def judge(self, prompt: str, *, tolerance: int) -> Verdict:
        return Verdict("zebra" in prompt, 0.7, "stripes", "stripes")


def prompts_only(**changes: object) -> Safety:
    settings = SafetySettings.model_validate({"picture_check": "none", **changes})
    return Safety.load(settings)


def outcome(engine: Engine, recorder: Recorder, **changes: object) -> JobResult | Failure | str:
    engine.submit(make_job(**changes), "lease")
    engine.start()
    recorder.wait("lease")
    return recorder.outcomes["lease"]


@pytest.mark.parametrize("prompt", MINORS)
@pytest.mark.parametrize("enabled", [True, False])
def test_sexual_content_with_minors_is_always_refused(
    make_engine: Callable[..., Engine], recorder: Recorder, prompt: str, enabled: bool
) -> None:
    engine = make_engine(safety=prompts_only(enabled=enabled))
    failure = outcome(engine, recorder, prompt=prompt, safety_tolerance=6, safety_checker=False)
    assert isinstance(failure, Failure)
    assert failure.status == 422
    assert failure.body == {
        "detail": [
            {
                "loc": ["body", "prompt"],
                "msg": CONTENT_POLICY_MESSAGE,
                "type": "content_policy_violation",
                "url": "https://docs.fal.ai/errors#content_policy_violation",
            }
        ]
    }
    assert not recorder.steps


def test_a_flagged_prompt_gives_black_pictures_undrawn(make_engine: Callable[..., Engine], recorder: Recorder) -> None:
    engine = make_engine(safety=prompts_only())
    result = outcome(engine, recorder, prompt="a nude portrait", num_images=3)
    assert isinstance(result, JobResult)
    assert [picture.nsfw for picture in result.pictures] == [True] * 3
    for picture in result.pictures:
        pixels = np.asarray(Image.open(io.BytesIO(picture.data)))
        assert pixels.shape == (48, 64, 3)
        assert not pixels.any()
    assert [notice.code for notice in result.notices] == ["safety_blackened"]
    assert not recorder.steps
    assert any(level == "WARN" and "sexual (score 0." in message for _, level, message in recorder.lines)
    assert not any("nude" in message for message in recorder.messages("lease"))


@pytest.mark.parametrize("words", ["a nude portrait", MINORS[0]])
def test_words_that_do_not_count_are_judged_all_the_same(words: str) -> None:
    safety = prompts_only()
    assert safety.screen(make_job(prompt="", unheard=words)) == safety.screen(make_job(prompt=words))
    assert safety.screen(make_job(prompt="", unheard=words)).flagged


def test_a_flagged_prompt_can_be_refused(make_engine: Callable[..., Engine], recorder: Recorder) -> None:
    failure = outcome(make_engine(safety=prompts_only(on_flagged="error")), recorder, prompt="a nude portrait")
    assert isinstance(failure, Failure)
    assert failure.error_type == "content_policy_violation"


def test_the_caller_may_switch_the_prompt_check_off(make_engine: Callable[..., Engine], recorder: Recorder) -> None:
    result = outcome(make_engine(safety=prompts_only()), recorder, prompt="a nude portrait", safety_checker=False)
    assert isinstance(result, JobResult)
    assert not result.pictures[0].nsfw


def test_a_third_party_check_is_found_by_its_setting(
    make_engine: Callable[..., Engine], recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys
    import types

    module = types.ModuleType("third_party")
    module.Words = Words  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "third_party", module)
    safety = prompts_only(prompt_check="third_party:Words")
    assert safety.screen(make_job(prompt="a zebra")).category == "stripes"
    assert not safety.screen(make_job(prompt="a nude portrait")).flagged
    assert safety.screen(make_job(prompt=MINORS[0])).category == "sexual_minors"
    with pytest.raises(ConfigError, match=r"safety\.prompt_check"):
        prompts_only(prompt_check="unheard_of")


class Second:
    """Flags the second picture that it sees."""

    seen = 0

    def judge(self, pixels: Pixels, *, tolerance: int) -> Verdict:
        self.seen += 1
        return Verdict(self.seen == 2, 0.9 if self.seen == 2 else 0.1, "test", "test")


def test_one_flag_a_picture(make_engine: Callable[..., Engine], recorder: Recorder) -> None:
    engine = make_engine(safety=Safety(SafetySettings(), Second()))
    result = outcome(engine, recorder, num_images=3)
    assert isinstance(result, JobResult)
    assert sum(picture.nsfw for picture in result.pictures) == 1
    assert [notice.code for notice in result.notices] == ["safety_blackened"]
    for picture in result.pictures:
        assert picture.nsfw != np.asarray(Image.open(io.BytesIO(picture.data))).any()
