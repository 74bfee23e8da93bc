"""What is counted from lengths is what torch counts of the products that are really computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from editkit.models.bagel.cost import Cost, Ledger, pass_flops, pass_over, training_flops
from editkit.models.bagel.loss import sample_losses
from editkit.models.bagel.packing import pack
from editkit.models.bagel.parts import NoisedImage, Text
from editkit.models.bagel.session import Drawing, Session, Writing
from tests.models.bagel.small import SIZE, SIZES, TOKENS, image, small_bagel, text, trace
from tests.models.bagel.test_session import GUIDED, PLAIN, seen

NETWORK = small_bagel().eval()
NOISED = NoisedImage(image(0), image(1), 1.0)


def counted(action: Callable[[], Any]) -> int:
    """With attention as plain products, which is all that the counter knows on a CPU."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        action()
    return counter.get_total_flops()


def test_a_pass_over_text_and_pictures_is_counted_exactly() -> None:
    parts = trace(3)
    packed = pack([[parts]], TOKENS, SIZES)
    with torch.no_grad():
        assert pass_flops(pass_over(parts, SIZES, len(packed.ask_N)), SIZES) == counted(lambda: NETWORK(packed))


def test_pictures_of_two_sizes_count_each_by_itself() -> None:
    parts = [*seen(2), *trace(1, size=(12, 8))]
    small, large = (pass_over([part], SIZES) for part in (parts[1], parts[6]))
    assert (small.patches, large.patches) == ((4,), (6,))
    assert pass_flops(pass_over([], SIZES), SIZES) == 0


def test_a_training_step_is_three_times_its_forward_pass() -> None:
    parts = trace(3)
    packed = pack([[parts]], TOKENS, SIZES)
    network = small_bagel()
    found = counted(lambda: sample_losses(network(packed), packed).over_tokens().backward())
    said = training_flops(parts, SIZES)
    assert said == 3 * pass_flops(pass_over(parts, SIZES, len(packed.ask_N)), SIZES)  # every label is counted
    assert found == pytest.approx(said, rel=0.05)  # nothing is derived by the pixels


@pytest.mark.parametrize("drawing", [PLAIN, GUIDED, Drawing(steps=5, text_scale=1.0, image_scale=2.0)])
def test_a_whole_generation_is_counted_exactly(drawing: Drawing) -> None:
    """Read, write, draw, look, write, draw again, with every branch and everything that is remembered."""
    begun = [text(1, 5)]
    session = Session(NETWORK, TOKENS, [[]], [0])
    writing = Writing(max_tokens=6)

    def write() -> None:
        for _ in session.write([0], writing):
            pass

    costs = [counted(lambda: session.add({0: begun}))]
    ledger = Ledger(SIZES, begun)
    costs.append(counted(write))
    ledger.write(last_text(session))
    costs.append(counted(lambda: session.draw([0], (SIZE, SIZE), drawing)))
    ledger.draw(NOISED, drawing)
    costs.append(counted(lambda: session.add({0: seen(4)})))
    ledger.show(seen(4))
    assert (ledger.cost.reading, ledger.cost.writing, ledger.cost.drawing, ledger.cost.looking) == tuple(costs)
    costs.append(counted(write))
    ledger.write(last_text(session))
    costs.append(counted(lambda: session.draw([0], (SIZE, SIZE), drawing)))
    ledger.draw(NOISED, drawing)
    assert ledger.cost.flops == sum(costs)
    assert (ledger.cost.steps, ledger.cost.pictures) == (2 * drawing.steps, 2)


def last_text(session: Session) -> Text:
    said = session.parts[0][-1]
    assert isinstance(said, Text)
    return said


def test_evaluations_count_every_branch_where_it_guides() -> None:
    plain, guided = Ledger(SIZES, [text(1, 5)]), Ledger(SIZES, [text(1, 5), *seen(2), text(3, 2)])
    plain.draw(NOISED, GUIDED)
    guided.draw(NOISED, GUIDED)
    assert plain.cost.evaluations == 4 + 2  # no picture before, so no image branch
    assert guided.cost.evaluations == 4 + 2 + 2
    assert (plain.cost + guided.cost).steps == 8
    assert Cost(1, 2, 3, 4).flops == 10
