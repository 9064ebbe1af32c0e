"""`detmodes.loss` under the Trainer of transformers gives the weights that our own loop gives, whole or accumulated;
and nothing else computes the loss without a word."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    LlamaForCausalLM,
    Trainer,
)
from transformers.modeling_outputs import CausalLMOutput

import detmodes
from harness.errors import ConfigError, ObjectiveError
from harness.inference.padding import target_batch
from harness.inference.teacher_forcing import top_k_masses
from harness.objectives import OBJECTIVES, ready
from harness.sequence.targets import members
from harness.types import IGNORED_LABEL
from tests.api.toy import (
    BATCH,
    CODEC,
    HELDOUT,
    SEED,
    SETTINGS,
    InOrder,
    LlamaAdapter,
    arguments,
    collate,
    heldout,
    language_model,
    largest_difference,
    loss_of,
    ours,
    rows_of_the_plan,
    trained,
)


@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("name", SETTINGS)
def test_the_trainer_reaches_the_weights_of_our_loop(name: str, accumulation: int, tmp_path: Path) -> None:
    model, losses, settings = ours(name, micro_batch=BATCH // accumulation)
    loss = loss_of(name)
    if "quantile" in SETTINGS[name]:
        loss.calibrate(language_model(), [collate(heldout()[:2]), collate(heldout()[2:])])
    assert {**loss.settings, "threshold": 0} == {**settings, "threshold": 0}
    assert loss.settings.get("threshold", 0.0) == pytest.approx(settings.get("threshold", 0.0), rel=1e-6)
    theirs, logged = trained(tmp_path, loss, accumulation)
    assert logged == pytest.approx(losses, rel=1e-5)
    assert largest_difference(model, theirs) < 1e-6
    assert largest_difference(model, language_model()) > 1e-3  # there was something to learn


def test_objectives_are_told_apart_by_the_weights() -> None:
    """By far more than the tolerance above."""
    trained = {name: ours(name)[0] for name in SETTINGS}
    for one in SETTINGS:
        for other in SETTINGS:
            assert one == other or largest_difference(trained[one], trained[other]) > 1e-4, (one, other)
    named = {case.partition(" ")[0] for case in SETTINGS}
    assert {*named, "mixture"} == {name for name, spec in OBJECTIVES.items() if spec.level == "token"}


def test_a_split_into_equal_parts_is_no_mean_of_means() -> None:
    """Rows have different lengths: a mean over micro-batches of their means is another loss."""
    loss = detmodes.loss("ce")
    rows, model = rows_of_the_plan()[:BATCH], language_model()
    counts = [sum(label != IGNORED_LABEL for label in row["labels"]) for row in rows]
    assert len(set(counts)) > 1
    parts = [collate(rows[:1]), collate(rows[1:])]

    def of(batch: dict[str, Tensor], number: int | None) -> float:
        given = {key: value for key, value in batch.items() if key != "labels"}
        return loss(model(**given), batch["labels"], num_items_in_batch=number).item()

    whole = of(collate(rows), None)
    assert sum(of(part, sum(counts)) for part in parts) == pytest.approx(whole, rel=1e-12)
    assert sum(of(part, None) for part in parts) / 2 != pytest.approx(whole, rel=1e-5)


def test_cross_entropy_is_that_of_transformers() -> None:
    batch, model = collate(rows_of_the_plan()[:3]), language_model()
    expected = model(**batch).loss
    loss = detmodes.loss("ce")
    given = {key: value for key, value in batch.items() if key != "labels"}
    assert loss(model(**given), batch["labels"]).item() == pytest.approx(expected.item(), rel=1e-6)
    assert loss(model(**given).to_tuple(), batch["labels"]).item() == pytest.approx(expected.item(), rel=1e-6)


def test_a_decoder_behind_an_encoder_is_not_shifted() -> None:
    """Its input is shifted already: the label at a place is what the logits there predict."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"d_model": 8, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8, "max_position_embeddings": 16}
    halves: dict[str, Any] = {
        f"{half}_{part}": 1 for half in ("encoder", "decoder") for part in ("layers", "attention_heads")
    }
    model: Any = BartForConditionalGeneration(BartConfig(vocab_size=20, **sizes, **halves))
    model.eval()
    ids, labels = torch.tensor([[4, 5, 6]]), torch.tensor([[7, 8, IGNORED_LABEL]])
    outputs = model(input_ids=ids, decoder_input_ids=torch.tensor([[2, 7, 8]]))
    expected = F.cross_entropy(outputs.logits[0, :2], labels[0, :2])
    assert detmodes.loss("ce")(outputs, labels).item() == pytest.approx(expected.item(), rel=1e-6)


def test_a_batch_without_targets_has_loss_0_and_a_gradient() -> None:
    logits = torch.randn(1, 3, 5, requires_grad=True)
    labels = torch.full((1, 3), IGNORED_LABEL)
    loss = detmodes.loss("ce")(CausalLMOutput(logits=logits), labels, num_items_in_batch=torch.tensor(0))
    loss.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert (loss.item(), logits.grad.abs().sum().item()) == (0.0, 0.0)


# ---- calibration -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("positions", ["targets", "all"])
def test_calibration_is_that_of_our_loop(positions: str) -> None:
    """However the held-out rows are put into batches; only as many of them as are asked for."""
    given: dict[str, Any] = {"top_k": 2, "quantile": 0.3, "calibration_top_k": 4, "calibration_positions": positions}
    masses = top_k_masses(LlamaAdapter(), HELDOUT[:3], "random", SEED, 4, prompts=positions == "all")
    expected = ready("sed_sft", given).calibrated(masses).settings["threshold"]
    model = language_model().train()
    for size in (1, 2, 5):
        loss = detmodes.loss("sed_sft", **given, calibration_examples=3)
        rows = heldout()
        calibrated = loss.calibrate(model, [collate(rows[start : start + size]) for start in range(0, 5, size)])
        assert calibrated == loss.settings["threshold"] == pytest.approx(expected, rel=1e-6)
        assert model.training


def test_calibration_is_asked_for_and_checked() -> None:
    loss = detmodes.loss("sed_sft", top_k=2, quantile=0.3, calibration_examples=9)
    outputs = CausalLMOutput(logits=torch.zeros(1, 3, 5))
    with pytest.raises(ObjectiveError, match=r"sed_sft has no threshold yet: call calibrate\(model, batches\)"):
        loss(outputs, torch.ones(1, 3, dtype=torch.long))
    with pytest.raises(ConfigError, match="calibration_examples: expected at most the 5 given, got 9"):
        loss.calibrate(language_model(), [collate(heldout())])
    with pytest.raises(ObjectiveError, match="calibration needs"):
        detmodes.loss("sed_sft", top_k=2, quantile=0.3).calibrate(language_model(), [])
    with pytest.raises(ConfigError, match="ce: has no quantile to calibrate"):
        detmodes.loss("ce").calibrate(language_model(), [])


# ---- nothing falls back ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "settings", "problem"),
    [
        ("eco", {}, "which targets of a batch are of one image"),
        ("mrt", {}, "samples that the model draws"),
        ("ce_kl", {}, r"ce_kl asks a frozen model: expected reference=copy\.deepcopy\(model\)"),
        ("ce", {"reference": language_model()}, "ce asks no frozen model under these settings: leave reference out"),
        ("mixture", {}, "prompts that end with the token of an expert"),
        ("sed_sft", {"mask": "base", "top_k": 2, "threshold": 0.9}, "sed_sft asks a frozen model"),
        ("sed", {}, "did you mean 'sed_sft'"),
        ("gem", {"betta": 1.0}, "did you mean 'beta'"),
    ],
)
def test_what_cannot_be_honoured_is_refused_at_once(name: str, settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        detmodes.loss(name, **settings)


def test_a_reference_that_is_trained_itself_is_refused(tmp_path: Path) -> None:
    model = language_model()
    loss = detmodes.loss("ce_kl", reference=model)
    with pytest.raises(ObjectiveError, match="reference: shares weights with the model that is trained"):
        loss.watch(model)
    loss = detmodes.loss("ce_kl", reference=language_model())
    with pytest.raises(ObjectiveError, match=r"what the model was asked is not known; give the Trainer callbacks="):
        loss(CausalLMOutput(logits=torch.zeros(1, 3, 5)), LABELS)
    trainer = InOrder(
        model=model,
        args=arguments(tmp_path),
        train_dataset=rows_of_the_plan(),
        data_collator=collate,
        compute_loss_func=loss,
    )
    with pytest.raises(ObjectiveError, match="what the model was asked is not known"):
        trainer.train()


def test_a_reference_is_asked_in_eval_mode_and_left_as_it_was() -> None:
    """By hand: KL(p || q) is 0 where the two models are the same, and the reference gets no gradient."""
    model, reference = language_model(), language_model()
    loss = detmodes.loss("ce_kl", weight=3.0, reference=reference)
    loss.watch(model)
    reference.train()
    modes: list[bool] = []
    reference.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    batch = collate(rows_of_the_plan()[:3])
    given = {key: value for key, value in batch.items() if key != "labels"}
    value = loss(model(**given), batch["labels"])
    assert value.item() == pytest.approx(detmodes.loss("ce")(model(**given), batch["labels"]).item(), rel=1e-12)
    torch.autograd.backward(value)
    assert modes == [False]
    assert reference.training
    assert all(parameter.grad is None for parameter in reference.parameters())
    loss.release()
    model(**given)
    with pytest.raises(ObjectiveError, match="what the model was asked is not known"):
        loss(model(**given), batch["labels"])


LABELS = torch.tensor([[1, 2, 3]])
LOGITS = torch.zeros(1, 3, 5)


@pytest.mark.parametrize(
    ("outputs", "labels", "items", "problem"),
    [
        (CausalLMOutput(loss=torch.tensor(1.0)), LABELS, None, r"no logits \[B, L, V\]: a fused kernel \(use_liger"),
        ((torch.tensor(1.0), LOGITS), LABELS, None, "no logits"),
        (CausalLMOutput(logits=LOGITS), None, None, "no labels"),
        (CausalLMOutput(logits=LOGITS[:, :2]), LABELS, None, r"a label for each place of \[1, 2\], got \[1, 3\]"),
        (SimpleNamespace(logits=LOGITS, aux_loss=torch.tensor(0.1)), LABELS, None, "auxiliary loss"),
        (CausalLMOutput(logits=LOGITS), LABELS, torch.tensor([[2], [2]]), "several GPUs in one process"),
    ],
)
def test_what_would_be_another_loss_raises(outputs: Any, labels: Any, items: Any, problem: str) -> None:
    with pytest.raises(ObjectiveError, match=problem):
        detmodes.loss("ce")(outputs, labels, num_items_in_batch=items)


class Fused(LlamaForCausalLM):  # type: ignore[no-untyped-call]
    """As a fused kernel does it: the loss, and no logits."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        outputs = super().forward(*args, **kwargs)
        return CausalLMOutput(loss=outputs.logits.mean())


class Stubborn(InOrder):
    """As sequence parallelism does it: the model's own loss, whatever compute_loss_func is."""

    def compute_loss(self, model: Any, inputs: Any, *_: Any, **__: Any) -> Any:
        return model(**inputs).loss


@pytest.mark.parametrize(
    ("trainer", "fused", "more", "problem"),
    [
        (InOrder, True, {}, "no logits"),
        (Stubborn, False, {}, r"step 1 was computed without gem: .* compute_loss_func is not asked"),
        (InOrder, False, {"label_smoothing_factor": 0.1}, "label_smoothing_factor has no effect"),
    ],
)
def test_a_trainer_that_bypasses_the_loss_is_stopped(
    trainer: type[Trainer], fused: bool, more: dict[str, Any], problem: str, tmp_path: Path
) -> None:
    loss, model = detmodes.loss("gem"), language_model()
    model.__class__ = Fused if fused else LlamaForCausalLM
    before = copy.deepcopy(model.state_dict())
    running = trainer(
        model=model,
        args=arguments(tmp_path, **more),
        train_dataset=rows_of_the_plan(),
        data_collator=collate,
        compute_loss_func=loss,
        callbacks=[loss.guard()],
    )
    with pytest.raises(ObjectiveError, match=problem):
        running.train()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_rows_cut_apart_are_refused_before_training() -> None:
    arguments = SimpleNamespace(
        label_smoothing_factor=0.0, parallelism_config=SimpleNamespace(cp_enabled=True, sp_enabled=False)
    )
    with pytest.raises(ObjectiveError, match="context and sequence parallelism"):
        detmodes.loss("ce").guard().on_train_begin(arguments, None, None)  # type: ignore[arg-type]


# ---- for a loop of one's own -----------------------------------------------------------------------------------------


def test_an_objective_is_a_function_of_a_batch() -> None:
    """Two places of two tokens: at weight 0 of the other, -log p is log(1 + e^-1) and log 2, by hand."""
    batch = detmodes.TokenBatch(torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 1]))
    expected = (math.log(1 + math.exp(-1)) + math.log(2)) / 2
    assert float(detmodes.objective("ce")(batch).mean()) == pytest.approx(expected)
    with pytest.raises(ConfigError, match="unknown objective 'cee'"):
        detmodes.objective("cee")


def test_the_toy_pads_as_our_batches_do() -> None:
    """The two ways to lay out the same rows: labels stand one place earlier in ours."""
    rows = [members(example, CODEC, "random", SEED, epoch=0, count=1)[0] for example in HELDOUT]
    batch = target_batch(rows, CODEC, [CODEC.prompt(example) for example in HELDOUT])
    theirs = collate(heldout())
    assert torch.equal(batch.labels, theirs["labels"][:, 1:])
