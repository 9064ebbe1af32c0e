"""The mean of the weights is the one of the formula, is what is evaluated and kept, and disturbs nothing else."""

from __future__ import annotations

import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from harness.errors import ConfigError
from harness.run.resume import CellCheckpointer
from harness.suite.train_settings import Train
from harness.system.interrupts import Interrupted, Interrupts
from harness.training import average
from harness.training.engines.data_parallel import require_whole_weights
from harness.training.finetuning import FineTuning
from harness.training.loop import Hooks, train
from harness.training.objective import prepare
from harness.training.stage import Work
from model_zoo.flamingo.toy import OpenFlamingo
from tests.support import small

Looks = dict[int, dict[str, Tensor]]
"""The weights at each evaluation."""
PLAN = Train(steps=4, batch_size=4, log_every=1, eval_at=(2,), warm_up=0, lr=1e-3)


def one_weight(value: float) -> nn.Linear:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, value)
    return model


def test_by_hand() -> None:
    """d = 1/2, weights 8, 4, 2 after three steps, from a base of 100:
    8; (8/2 + 4) / (1/2 + 1) = 16/3; (8/4 + 4/2 + 2) / (1/4 + 1/2 + 1) = 24/7."""
    model = one_weight(100.0)
    mean = average.begin(model)
    averages = []
    for step, weight in enumerate((8.0, 4.0, 2.0), 1):
        nn.init.constant_(model.weight, weight)
        average.update(mean, model, 0.5, step)
        averages.append(float(mean["weight"]))
    assert averages == pytest.approx([8, 16 / 3, 24 / 7], rel=1e-6)


def test_late_steps_are_those_of_torchs_moving_average() -> None:
    """After many steps the correction is gone, and what is left of where either began."""
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    torchs = AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.8))  # type: ignore[no-untyped-call]
    mean = average.begin(model)
    for step in range(1, 101):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        average.update(mean, model, 0.8, step)
        torchs.update_parameters(model)
    for name, parameter in torchs.module.named_parameters():
        torch.testing.assert_close(mean[name], parameter.detach(), atol=1e-5, rtol=1e-5)


def test_what_is_shown_is_given_back() -> None:
    model, mean = one_weight(3.0), {"weight": torch.tensor([[5.0]])}
    with average.shown(mean, model):
        assert model.weight.item() == 5.0
    assert (model.weight.item(), float(mean["weight"])) == (3.0, 5.0)
    with average.shown({}, model):
        assert model.weight.item() == 3.0
    average.put_in_place(mean, model)
    assert model.weight.item() == 5.0


def test_frozen_parameters_have_no_mean() -> None:
    model = nn.Sequential(one_weight(1.0), one_weight(2.0))
    model[0].requires_grad_(False)
    assert list(average.begin(model)) == ["1.weight"]


# ---- in training -------------------------------------------------------------------------------------------------


def weights(adapter: OpenFlamingo) -> dict[str, Tensor]:
    return {
        name: parameter.detach().clone()
        for name, parameter in adapter.model.named_parameters()
        if parameter.requires_grad
    }


def trained(plan: Train, **arguments: Any) -> tuple[dict[int, dict[str, Tensor]], dict[str, Tensor], list[float]]:
    """The weights at each evaluation, those at the end, and the losses."""
    adapter, looks = small.fitted(), {}

    def look(step: int) -> None:
        looks[step] = weights(adapter)

    objective = prepare("ce", {}, small.fitted(), (), plan, 0)
    curve = small.fine_tune(adapter, objective, plan, hooks=Hooks(evaluate=look), **arguments)
    return looks, weights(adapter), [row["loss"] for row in curve]


def test_the_mean_is_evaluated_and_kept_and_training_does_not_notice() -> None:
    each = PLAN.model_copy(update={"eval_at": (1, 2, 3)})
    plain, _, losses = trained(each)  # the weights after each step
    looks, last, averaged_losses = trained(PLAN.model_copy(update={"ema": 0.5}))
    assert averaged_losses == losses
    assert sorted(looks) == [2, 4]
    for step in (2, 4):
        shares = [0.5 ** (step - earlier) for earlier in range(1, step + 1)]
        for name, averaged in looks[step].items():
            expected = sum(share * plain[earlier][name] for earlier, share in enumerate(shares, 1)) / sum(shares)
            torch.testing.assert_close(averaged, expected, atol=1e-6, rtol=1e-5)
    assert all(torch.equal(last[name], looks[4][name]) for name in last)
    assert not all(torch.equal(last[name], plain[4][name]) for name in last)


@pytest.mark.parametrize("stopped", [1, 2, 3])
def test_training_that_was_stopped_goes_on_with_its_mean(stopped: int, tmp_path: Path) -> None:
    """To the last bit, and the evaluation after the stop too."""
    plan = PLAN.model_copy(update={"ema": 0.9})
    looks, last, losses = trained(plan)
    caught = Interrupts()

    def stop_after(step: int, loss: float) -> None:
        del loss
        if step == stopped:
            caught.pending = signal.SIGTERM

    adapter, objective = small.fitted(), prepare("ce", {}, small.fitted(), (), plan, 0)
    first = small.checkpointer(tmp_path / "resume", caught)
    with pytest.raises(Interrupted), first:
        small.fine_tune(adapter, objective, plan, hooks=Hooks(progress=stop_after), checkpointer=first, log=first.log)
    second = small.checkpointer(tmp_path / "resume")
    with second:
        later, end, curve = trained(plan, checkpointer=second, log=second.log)
    assert curve == losses
    assert all(torch.equal(tensor, end[name]) for name, tensor in last.items())
    for step, averaged in later.items():
        assert all(torch.equal(tensor, looks[step][name]) for name, tensor in averaged.items())


def test_a_later_stage_begins_with_the_mean(tmp_path: Path) -> None:
    """Also where training goes on that was stopped at the stage's end. The second stage changes next to nothing."""
    still = PLAN.model_copy(update={"lr": 1e-12, "weight_decay": 0.0, "eval_at": (), "steps": 1})
    plan = PLAN.model_copy(update={"ema": 0.5})

    def run(
        checkpointer: CellCheckpointer | None, looks: dict[int, dict[str, Tensor]], stop: Interrupts | None
    ) -> None:
        adapter = small.fitted()

        def look(step: int) -> None:
            looks[step] = weights(adapter)
            if stop is not None and step == plan.steps:
                stop.pending = signal.SIGTERM
                stop.check()

        stages = [FineTuning(prepare("ce", {}, small.fitted(), (), train, 0), train) for train in (plan, still)]
        more: dict[str, Any] = {} if checkpointer is None else {"log": checkpointer.log}
        work = Work(adapter, small.train_examples(8), 0, small.accelerator(), **more)
        train(work, stages, Hooks(evaluate=look), checkpointer)

    whole: Looks = {}
    run(None, whole, None)
    assert sorted(whole) == [2, 4, 5]
    for name, mean in whole[4].items():
        torch.testing.assert_close(whole[5][name], mean, atol=1e-9, rtol=0)
    caught, resumed = Interrupts(), Looks()
    first = small.checkpointer(tmp_path / "resume", caught)
    with pytest.raises(Interrupted), first:
        run(first, {}, caught)
    second = small.checkpointer(tmp_path / "resume")
    with second:
        run(second, resumed, None)
    assert sorted(resumed) == [4, 5]
    for step, averaged in resumed.items():
        assert all(torch.equal(tensor, whole[step][name]) for name, tensor in averaged.items())


def test_split_weights_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    two: Any = SimpleNamespace(num_processes=2)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    require_whole_weights(None, two)
    require_whole_weights(0.9, small.accelerator())
    with pytest.raises(ConfigError, match=r"^train\.ema: expected processes that have the whole model each"):
        require_whole_weights(0.9, two)
