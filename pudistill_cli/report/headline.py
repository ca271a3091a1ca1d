"""What a run was worth, in words: from the student it was given to what is kept, then what each stage added."""

from __future__ import annotations

from pudistill_cli.method.statistics import Interval
from pudistill_cli.report.numbers import interval_text, number, percent, points
from pudistill_cli.stages.evaluation import Results
from pudistill_cli.stages.evaluator import GREEDY, LIKENESS, temperature_name
from pudistill_cli.stages.gained import Gained

NEARLY_ALL = 0.95
"""A base that is right this often has little left to learn."""


def headline(results: Results) -> str:
    """One sentence: the measure before and after, and the gain with its interval."""
    if not results.gained:
        return "What this run gained is not known: it has no test prompts with an answer to compare with."
    first = results.gained[0]
    change = _change(first, results)
    if not results.has_metric:
        became = "likelier" if first.gain.low > 0 else "less likely" if first.gain.high < 0 else "no likelier"
        return (
            "Whether the answers are better is not known (eval.metric is none). What the teacher said on "
            f"{first.set} became {became}: {change}"
        )
    if first.gain.low > 0:
        return change
    if first.gain.high < 0:
        return f"Worse than the student it was given: {change}"
    return f"No measurable gain over the student it was given: {change}"


def added(results: Results) -> list[str]:
    """What each stage added, a sentence each, then the change on each further test set."""
    if not results.gained:
        return ["Give some: prompts.test, or a prompts.test_share above 0; then start a new run."]
    first, *others = results.gained
    lines = [f"SFT on the teacher's answers {_effect(first, first.sft)}."]
    if first.rounds is not None:
        kept = "SFT is kept" if results.chosen == "sft" else f"{results.chosen} is kept"
        at = f", {temperature_name(first.temperature)}" if results.has_metric else ""
        lines.append(f"The rounds {_effect(first, first.rounds)}{at}; {kept}.")
    lines += [f"{_change(of_set, results)}." for of_set in others]
    if not results.has_metric:
        return [*lines, "To measure these answers: pudistill eval RUN --set eval.metric=json (or exact, or chrf)"]
    return [*lines, *_advice(first, results)]


def _advice(gained: Gained, results: Results) -> list[str]:
    """What to change where nothing was gained."""
    if gained.gain.low > 0:
        return []
    if gained.is_share and gained.base.mean >= NEARLY_ALL:
        return ["The student was right nearly always before: harder prompts would show more."]
    if gained.sft.low > 0:
        return ["SFT gained and the rounds lost it again: do without them, --set prefer.rounds=0 --name NEW"]
    lines = [*_nearer(gained, results)]
    lines.append("What to change first: more training prompts, then sft.lr (--set sft.lr=... --name NEW).")
    if gained.gain.mean > 0:
        lines.append(f"{gained.prompts} test prompts tell no smaller gains apart; more of them would.")
    return lines


def _nearer(gained: Gained, results: Results) -> list[str]:
    """Whether SFT brought the answers nearer to the teacher's all the same, clear of chance."""
    at = [f for f in results.figures if (f.set, f.temperature) == (gained.set, gained.temperature)]
    likeness = {f.system: f.measures[LIKENESS] for f in at if LIKENESS in f.measures}
    if not likeness.keys() >= {"base", "SFT"} or likeness["SFT"].low <= likeness["base"].high:
        return []
    before, after = (number(likeness[system].mean) for system in ("base", "SFT"))
    return [f"The answers did come nearer to the teacher's ({LIKENESS} {before} -> {after}), without being right."]


def _change(gained: Gained, results: Results) -> str:
    """Before -> after, and the gain."""
    at, gain = temperature_name(gained.temperature), _gain(gained, gained.gain)
    if not results.has_metric:
        return f"log p {gained.base.mean:.2f} -> {gained.final.mean:.2f} nats a token, {gain}"
    if not gained.is_share:
        before, after = number(gained.base.mean), number(gained.final.mean)
        return f"{results.measure} on {gained.set} {before} -> {after}, {at}: {gain}"
    of = f"the {gained.set} prompts" if gained.temperature == GREEDY else f"the answers to {gained.set} prompts"
    right = "right" if gained.has_truth else "as the teacher's"
    return f"{percent(gained.base.mean)} -> {percent(gained.final.mean)} of {of} {right}, {at}: {gain}"


def _gain(gained: Gained, gain: Interval) -> str:
    return points(gain) if gained.is_share else interval_text(gain, signed=True)


def _effect(gained: Gained, gain: Interval) -> str:
    """What a stage did, by its interval."""
    words = "added" if gain.low > 0 else "made it worse:" if gain.high < 0 else "added nothing measurable:"
    return f"{words} {_gain(gained, gain)}"
