"""What is handed from a stream beside the steps to the steps is found whole; without a GPU nothing is in the way."""

import torch

from impasto.engine.acceleration import Speed
from impasto.engine.flux import Prompt
from impasto.engine.loras import Applied
from impasto.engine.pictures import Given
from impasto.engine.streams import Streams, tensors_of
from impasto.flux.conditioning import Conditioning, Init
from impasto.flux.linear import Side, Up


def test_every_tensor_of_a_prompt_is_found() -> None:
    txt, vec, latents, down, up = (torch.zeros(n) for n in range(1, 6))
    side = Side(down, (Up(slice(0, 1), slice(0, 1), up),))
    given, lora = Given(init=Init(latents, 0.5)), Applied({"layer": side})
    prompt = Prompt(Conditioning(txt, vec, 1, False), given, lora, Speed())
    assert {len(tensor) for tensor in tensors_of(prompt)} == {1, 2, 3, 4, 5}


def test_on_a_cpu_streams_are_not_there() -> None:
    streams = Streams(torch.device("cpu"))
    with streams.own():
        value = torch.ones(3)
    streams.hand_out(value)
    assert value.sum() == 3
