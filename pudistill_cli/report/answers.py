"""Answers to the same prompts side by side, as `eval --show` prints them."""

from __future__ import annotations

from pudistill_cli.run.context import Job


def print_answers(job: Job, count: int) -> None:
    """Print the first `count` test prompts, each with every system's answer at its lowest temperature."""
    for prompt in job.prompts.test[:count]:
        job.console.result("\n" + prompt.messages[-1].content)
        answers = [(answer.system, answer.text) for answer in job.ledger.answers_to(prompt.key)]
        if prompt.reference is not None:
            answers.append(("truth", prompt.reference))
        width = max((len(system) for system, _ in answers), default=0)
        for system, text in answers:
            job.console.result(f"  {system:<{width}}  {text}")
