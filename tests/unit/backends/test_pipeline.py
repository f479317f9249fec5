"""The parts of pipelines: the fence, bytes to media and back, parameters, and what is refused at load."""

from __future__ import annotations

import functools
import io
import json
import math
import os
import socket
import subprocess
import time
import tracemalloc
from collections.abc import Collection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hubwire_server.backends.base import LoadOptions
from hubwire_server.backends.pipeline import fence, inputs, media, outputs
from hubwire_server.backends.pipeline.inputs import InputReader
from hubwire_server.backends.pipeline.loading import LoadedPipeline, load_pipeline
from hubwire_server.backends.pipeline.parameters import FLOATS, FORBIDDEN, LIMITS, check_parameters, known_parameters
from hubwire_server.backends.pipeline.running import BY_NAME, Runner
from hubwire_server.errors import HubwireError, Reason
from hubwire_server.pipelines import Blob, Call, PipelineInput
from tests.pipeline_models import MODELS, picture, png, tone, wav


def refused(reason: Reason, call: Any, *arguments: Any) -> str:
    """The text of the error that a call raises."""
    with pytest.raises(HubwireError) as caught:
        call(*arguments)
    assert caught.value.reason is reason
    return caught.value.message


class TestFence:
    def test_a_file_outside_is_not_opened(self, tmp_path: Path):
        (tmp_path / "secret").write_text("x")
        inside = tmp_path / "model"
        inside.mkdir()
        (inside / "weights").write_text("y")
        with fence.only_files_of([inside]):
            assert (inside / "weights").read_text() == "y"
            for path in (tmp_path / "secret", inside / ".." / "secret", Path("/proc/self/environ"), Path("/etc/passwd")):
                with pytest.raises(fence.FenceError):
                    path.read_text()
                with pytest.raises(fence.FenceError):
                    os.open(path, os.O_RDONLY)
            assert fence.was_crossed()
        assert (tmp_path / "secret").read_text() == "x"

    def test_nothing_is_written_inside_either(self, tmp_path: Path):
        with fence.only_files_of([tmp_path]), pytest.raises(fence.FenceError):
            (tmp_path / "new").write_text("x")
        with fence.only_files_of([tmp_path]), pytest.raises(fence.FenceError):
            os.open(tmp_path / "new", os.O_WRONLY | os.O_CREAT)
        assert not (tmp_path / "new").exists()

    def test_neither_connections_nor_processes_are_made(self, tmp_path: Path):
        for closed in (fence.no_connections(), fence.only_files_of([tmp_path])):
            with closed:
                with pytest.raises(fence.FenceError):
                    socket.create_connection(("127.0.0.1", 9), timeout=1)
                with socket.socket() as sock, pytest.raises(fence.FenceError):
                    sock.connect(("127.0.0.1", 9))
                with pytest.raises(fence.FenceError):
                    subprocess.run(["true"], check=False)
                with pytest.raises(fence.FenceError):
                    os.system("true")

    def test_a_model_may_read_any_file_while_it_is_loaded(self, tmp_path: Path):
        (tmp_path / "config").write_text("x")
        with fence.no_connections():
            assert (tmp_path / "config").read_text() == "x"

    def test_modules_are_imported_inside(self, tmp_path: Path):
        with fence.only_files_of([tmp_path]):
            import this as module  # noqa: F401  # one that nothing has imported
        assert not fence.was_crossed()


class TestMedia:
    @pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
    def test_an_image_of_each_format_is_read(self, form: str):
        file = io.BytesIO()
        picture().save(file, format=form)
        assert media.image(Blob(data=file.getvalue())).size == (60, 40)

    def test_a_format_that_starts_other_programs_is_not_read(self):
        file = io.BytesIO()
        picture().save(file, format="EPS")
        refused(Reason.MEDIA_INVALID, media.image, Blob(data=file.getvalue()))

    def test_an_image_over_the_limit_is_refused_before_it_is_unpacked(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(media, "MAX_PIXELS", 60 * 40 - 1)
        assert "60 x 40" in refused(Reason.MEDIA_INVALID, media.image, Blob(data=png()))

    @pytest.mark.parametrize("cut", [10, 100, 500])
    def test_an_image_that_is_cut_off_is_refused(self, cut: int):
        refused(Reason.MEDIA_INVALID, media.image, Blob(data=png()[:cut]))

    @pytest.mark.parametrize(("dtype", "zero", "scale"), [("uint8", 128, 128), ("int16", 0, 2**15), ("int32", 0, 2**31)])
    def test_samples_of_each_width_are_numbers_from_minus_one_to_one(self, dtype: str, zero: int, scale: int):
        values = np.array([-1.0, -0.5, 0.0, 0.5])
        sound = media.sound(Blob(data=wav((values * scale + zero).astype(dtype))), 16_000)
        assert sound["sampling_rate"] == 16_000
        assert sound["raw"].tolist() == values.tolist()

    def test_samples_of_24_bits_are_read(self):
        data = bytearray(wav(np.array([-(2**30), 2**29], dtype=np.int32)))
        packed = np.array([-(2**30), 2**29], dtype="<i4").view(np.uint8).reshape(-1, 4)[:, 1:].tobytes()
        data[-8:] = packed  # the samples without their lowest byte, and a header that says so
        data[34:36] = (24).to_bytes(2, "little")
        data[32:34] = (3).to_bytes(2, "little")
        data[40:44] = (6).to_bytes(4, "little")
        data[4:8] = (len(data) - 8).to_bytes(4, "little")
        assert media.sound(Blob(data=bytes(data)), 16_000)["raw"].tolist() == [-0.5, 0.25]

    def test_channels_are_mixed(self):
        sound = media.sound(Blob(data=wav(np.array([100, 300, -200, 0], dtype=np.int16), channels=2)), 16_000)
        np.testing.assert_allclose(sound["raw"] * 2**15, [200, -100])

    @pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
    def test_a_tone_is_the_same_tone_at_another_rate(self, rate: int):
        resampled = media.sound(Blob(data=wav(tone(rate), rate)), 16_000)["raw"]
        expected = tone(16_000) / 2.0**15
        assert len(resampled) == len(expected)
        inner = slice(200, -200)  # the ends see what is beyond them as silence
        np.testing.assert_allclose(resampled[inner], expected[inner], atol=0.01)

    @pytest.mark.parametrize(("rate", "wanted"), [(16_001, 16_000), (1, 16_000), (44_101, 44_100), (2**31 - 1, 16_000)])
    def test_a_rate_that_no_sound_is_recorded_at_is_refused_before_a_filter_is_made(self, rate: int, wanted: int):
        tracemalloc.start()
        try:
            text = refused(Reason.MEDIA_INVALID, media.sound, Blob(data=wav(np.zeros(100, dtype=np.int16), rate)), wanted)
            assert tracemalloc.get_traced_memory()[1] < 10_000_000
        finally:
            tracemalloc.stop()
        assert str(rate) in text
        assert "22050" in text

    @pytest.mark.parametrize("wanted", media.RATES)
    @pytest.mark.parametrize("rate", media.RATES)
    def test_each_rate_is_read_at_each_other(self, rate: int, wanted: int):
        sound = media.sound(Blob(data=wav(np.zeros(rate // 100, dtype=np.int16), rate)), wanted)
        assert len(sound["raw"]) == math.ceil(rate // 100 * wanted / rate)

    def test_a_model_of_a_rate_that_has_nothing_in_common_with_the_sound_makes_no_filter(self):
        assert "16001" in refused(Reason.MEDIA_INVALID, media.sound, Blob(data=wav(np.zeros(100, dtype=np.int16), 16_000)), 16_001)

    @pytest.mark.parametrize("data", [b"", b"RIFF", b"no sound at all", wav(np.zeros(0, dtype=np.int16))])
    def test_what_is_no_sound_is_refused(self, data: bytes):
        refused(Reason.MEDIA_INVALID, media.sound, Blob(data=data), 16_000)

    @pytest.mark.parametrize(
        ("dtype", "shape", "data"),
        [
            ("float32", (2,), b"1234"),
            ("object", (1,), b"12345678"),
            ("<f4", (1,), b"1234"),
            ("uint8", (2**32, 2**32), b""),
            ("uint8", (1,) * 65, b"1"),
        ],
    )
    def test_an_array_that_does_not_fit_its_bytes_is_refused(self, dtype: str, shape: tuple[int, ...], data: bytes):
        refused(Reason.MEDIA_INVALID, media.array, Blob(data=data, dtype=dtype, shape=shape))


class TestInputs:
    def reader(self, task: str) -> InputReader:
        return InputReader(task, SimpleNamespace())

    def test_a_blob_is_unpacked_once_however_often_it_is_referred_to(self, monkeypatch: pytest.MonkeyPatch):
        opened: list[Blob] = []
        read = media.image
        monkeypatch.setattr(media, "image", lambda blob, *more: (opened.append(blob), read(blob, *more))[1])
        blobs = (Blob(data=png()), Blob(data=png(1)))
        images = self.reader("keypoint-matching").read(PipelineInput(fields={"inputs": ["blob:0", "blob:1", "blob:0"] * 5}, blobs=blobs))
        assert len(images) == 15
        assert all(image.size == (60, 40) for image in images)
        assert opened == list(blobs)

    def test_a_sound_that_a_pipeline_takes_apart_is_whole_where_it_stands_again(self):
        given = PipelineInput(fields={"inputs": ["blob:0", "blob:0"]}, blobs=(Blob(data=wav(tone(16_000))),))
        first, second = self.reader("automatic-speech-recognition").read(given)
        first.pop("raw")
        assert set(second) == {"raw", "sampling_rate"}

    def test_references_are_bounded(self):
        blobs = (Blob(data=b"1", dtype="uint8", shape=(1,)),)
        fields: dict[str, Any] = {"inputs": ["blob:0"] * inputs.MAX_REFERENCES}
        assert len(self.reader("image-text-to-text").read(PipelineInput(fields=fields, blobs=blobs))) == inputs.MAX_REFERENCES
        fields["inputs"].append("blob:0")
        text = refused(Reason.PIPELINE_INPUT_INVALID, self.reader("image-text-to-text").read, PipelineInput(fields=fields, blobs=blobs))
        assert str(inputs.MAX_REFERENCES) in text

    @pytest.mark.parametrize("references", [["blob:0", "blob:1", "blob:2"], ["blob:0", "blob:0", "blob:0"]], ids=["others", "the same"])
    def test_the_images_of_an_input_are_bounded_together(self, references: list[str], monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(media, "MAX_PIXELS", 60 * 40 * 2)
        read, blobs = self.reader("keypoint-matching").read, tuple(Blob(data=png(seed)) for seed in range(3))
        assert len(read(PipelineInput(fields={"inputs": references[:2]}, blobs=blobs))) == 2
        assert "together" in refused(Reason.MEDIA_INVALID, read, PipelineInput(fields={"inputs": references}, blobs=blobs))

    @pytest.mark.parametrize("task", ["automatic-speech-recognition", "zero-shot-audio-classification"])
    def test_the_sounds_of_an_input_are_bounded_together(self, task: str, monkeypatch: pytest.MonkeyPatch):
        sound = Blob(data=wav(tone(16_000)))
        read = self.reader(task).read
        one = read(PipelineInput(blob=sound))
        monkeypatch.setattr(media, "MAX_SAMPLES", 2 * len(one["raw"] if isinstance(one, dict) else one))
        assert len(read(PipelineInput(fields={"inputs": ["blob:0"] * 2}, blobs=(sound,)))) == 2
        for references, blobs in ((["blob:0"] * 3, (sound,)), (["blob:0", "blob:1", "blob:2"], (sound,) * 3)):
            given = PipelineInput(fields={"inputs": references}, blobs=blobs)
            assert "together" in refused(Reason.MEDIA_INVALID, read, given)


class TestOutputs:
    def test_arrays_and_images_become_blobs_wherever_they_stand(self):
        mask = Image.fromarray(np.eye(4, dtype=np.uint8) * 255)
        answer = outputs.to_answer(
            [{"mask": mask, "score": np.float32(0.5)}, (torch.arange(6).reshape(2, 3), torch.tensor(2.0)), {"n": np.int64(3), 1: None}]
        )
        assert answer.value == [{"mask": "blob:0", "score": 0.5}, ["blob:1", 2.0], {"n": 3, "1": None}]
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(answer.blobs[0].data))), np.asarray(mask))
        assert answer.blobs[0].media_type == "image/png"
        assert (answer.blobs[1].dtype, answer.blobs[1].shape) == ("int64", (2, 3))
        assert np.frombuffer(answer.blobs[1].data, "<i8").tolist() == list(range(6))

    def test_half_precision_and_images_of_numbers_keep_their_values(self):
        answer = outputs.to_answer([torch.tensor([1.5, -2.0], dtype=torch.bfloat16), Image.fromarray(np.float32([[0.25]]))])
        assert [(blob.dtype, np.frombuffer(blob.data, "<f4").tolist()) for blob in answer.blobs] == [
            ("float32", [1.5, -2.0]),
            ("float32", [0.25]),
        ]

    @pytest.mark.parametrize("value", [float("nan"), np.float32("inf"), torch.tensor(float("nan"))])
    def test_a_number_that_is_not_finite_is_refused(self, value: Any):
        refused(Reason.OUTPUT_NOT_FINITE, outputs.to_answer, {"score": value})

    def test_an_answer_that_is_too_large_is_refused(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(outputs, "MAX_OUTPUT_BYTES", 100)
        monkeypatch.setattr(outputs, "MAX_OUTPUT_VALUES", 10)
        outputs.to_answer([np.zeros(100, np.uint8)])
        refused(Reason.PIPELINE_INPUT_INVALID, outputs.to_answer, [np.zeros(60, np.uint8)] * 2)
        refused(Reason.PIPELINE_INPUT_INVALID, outputs.to_answer, list(range(10)))

    def test_an_object_that_no_json_holds_is_an_error_of_the_server(self):
        refused(Reason.INTERNAL, outputs.to_answer, object())


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> dict[str, frozenset[str]]:
    """The names that some pipelines read."""
    folder = tmp_path_factory.mktemp("known")
    names = ("vit", "segformer", "bert", "t5")
    for name in names:
        MODELS[name].save(folder / name)
    return {name: load_pipeline(folder / name, MODELS[name].task, LoadOptions()).known for name in names}


class TestParameters:
    def test_the_names_are_those_that_the_pipeline_reads(self, known):
        assert known["vit"] == {"top_k", "function_to_apply"}
        assert known["segformer"] == {"subtask", "threshold", "mask_threshold", "overlap_mask_area_threshold"}
        assert {"top_k", "function_to_apply", "truncation", "max_length"} <= known["bert"]
        assert {"max_new_tokens", "num_beams", "temperature", "do_sample", "truncation"} <= known["t5"]

    def test_what_loads_code_or_models_is_never_among_them(self, known):
        for names in known.values():
            assert not names & FORBIDDEN

    @pytest.mark.parametrize("parameters", [{"kwargs": {"custom_generate": "x/y"}}, {"kwargs": [{"trust_remote_code": True}]}])
    def test_a_forbidden_name_is_refused_at_any_depth(self, parameters):
        assert "not for callers" in refused(Reason.PIPELINE_INPUT_INVALID, check_parameters, parameters, frozenset({"kwargs"}))

    @pytest.mark.parametrize("name", sorted(LIMITS))
    @pytest.mark.parametrize("inside", [False, True], ids=["itself", "inside generate_kwargs"])
    def test_what_takes_time_or_memory_by_the_number_is_bounded(self, name: str, inside: bool):
        names = frozenset({name, "generate_kwargs"})

        def check(value: Any) -> Any:
            return check_parameters({"generate_kwargs": {name: value}} if inside else {name: value}, names)

        check(LIMITS[name])
        for value in (LIMITS[name] + 1, 1e30, float("inf"), float("nan")):
            text = refused(Reason.PIPELINE_INPUT_INVALID, check, value)
            assert name in text
            assert str(LIMITS[name]) in text

    def test_a_whole_number_is_a_float_where_generation_wants_one(self):
        names = frozenset({"temperature", "top_k", "generate_kwargs"})
        checked = check_parameters({"temperature": 2, "top_k": 3, "generate_kwargs": {"top_p": 1}}, names)
        assert checked == {"temperature": 2.0, "top_k": 3, "generate_kwargs": {"top_p": 1.0}}
        assert type(checked["temperature"]) is type(checked["generate_kwargs"]["top_p"]) is float

    def test_the_floats_are_parameters_of_generation(self):
        import transformers

        assert set(vars(transformers.GenerationConfig())) >= FLOATS

    def test_every_pipeline_of_transformers_can_be_asked_for_its_names(self):
        from transformers.pipelines import SUPPORTED_TASKS, _resolve_impl

        model = SimpleNamespace(can_generate=lambda: False)
        for task, entry in SUPPORTED_TASKS.items():
            pipeline = object.__new__(_resolve_impl(entry["impl"]))
            pipeline.model, pipeline.tokenizer = model, None
            assert known_parameters(pipeline) or task == "decision"


class TestLoading:
    def load(self, path: Path, task: str, **options: Any) -> Any:
        return load_pipeline(path, task, LoadOptions(**options))

    def test_a_checkpoint_without_the_head_is_refused_with_its_own_architecture(self, tmp_path: Path):
        import transformers

        MODELS["bert"].save(tmp_path)
        transformers.AutoModel.from_pretrained(tmp_path).save_pretrained(tmp_path)
        text = refused(Reason.MODEL_NOT_SUPPORTED, self.load, tmp_path, "text-classification")
        assert "BertModel" in text
        assert "classifier" in text

    def test_a_family_that_the_pipeline_does_not_have_is_refused(self, tmp_path: Path):
        MODELS["bert"].save(tmp_path)
        assert "'bert'" in refused(Reason.MODEL_NOT_SUPPORTED, self.load, tmp_path, "depth-estimation")

    def test_pickled_weights_need_permission(self, tmp_path: Path):
        MODELS["vit"].save(tmp_path)
        from safetensors.torch import load_file

        torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
        (tmp_path / "model.safetensors").unlink()
        assert "--allow-pickle" in refused(Reason.MODEL_NOT_ALLOWED, self.load, tmp_path, "image-classification")
        assert load_pipeline(tmp_path, "image-classification", LoadOptions(allow_pickle=True)).architecture == "ViTForImageClassification"

    def test_code_of_the_folder_needs_permission(self, tmp_path: Path):
        MODELS["vit"].save(tmp_path)
        config = json.loads((tmp_path / "config.json").read_text())
        config |= {"model_type": "mine", "auto_map": {"AutoConfig": "code.Config", "AutoModelForImageClassification": "code.Model"}}
        (tmp_path / "config.json").write_text(json.dumps(config))
        (tmp_path / "code.py").write_text("raise AssertionError('the code was run')")
        assert "--allow-remote-code" in refused(Reason.MODEL_NOT_ALLOWED, self.load, tmp_path, "image-classification")

    def test_a_folder_without_weights_or_processor_is_refused(self, tmp_path: Path):
        MODELS["vit"].save(tmp_path)
        (tmp_path / "preprocessor_config.json").unlink()
        assert str(tmp_path) not in refused(Reason.MODEL_LOAD_FAILED, self.load, tmp_path, "image-classification")
        (tmp_path / "model.safetensors").unlink()
        refused(Reason.MODEL_NOT_SUPPORTED, self.load, tmp_path, "image-classification")

    @pytest.mark.parametrize("options", [{"backend": "onnx"}, {"dtype": "int8"}])
    def test_pipelines_run_in_torch_alone(self, options, tmp_path: Path):
        with pytest.raises(HubwireError) as caught:
            self.load(tmp_path, "image-classification", **options)
        assert caught.value.reason is Reason.MODEL_NOT_SUPPORTED

    def test_a_package_that_the_server_lacks_is_named_at_load(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("hubwire_server.backends.pipeline.loading.PACKAGES", {"image-classification": "a_package_of_nobody"})
        assert "a_package_of_nobody" in refused(Reason.MODEL_NOT_SUPPORTED, self.load, tmp_path, "image-classification")

    def test_a_folder_that_names_no_pipeline_asks_for_one(self, tmp_path: Path):
        assert "pipeline_task" in refused(Reason.PIPELINE_NOT_SUPPORTED, self.load, tmp_path, "")


def unloaded(task: str, known: Collection[str] = ()) -> LoadedPipeline:
    """A pipeline that returns the keyword arguments of its call."""

    def call(*arguments: Any, **keywords: Any) -> Any:
        return keywords

    pipeline: Any = functools.partial(call)
    pipeline.model = SimpleNamespace(can_generate=lambda: False)
    return LoadedPipeline(
        call=pipeline,
        task=task,
        known=frozenset(known),
        path=Path(__file__).parent,
        fingerprint="",
        architecture="",
        device="cpu",
        dtype="",
    )


class TestRunning:
    def test_a_deadline_that_has_passed_computes_nothing(self, tmp_path: Path):
        MODELS["vit"].save(tmp_path)
        runner = Runner(load_pipeline(tmp_path, "image-classification", LoadOptions()))
        call = Call(input=PipelineInput(blob=Blob(data=b"no image")), parameters={}, deadline_ns=time.monotonic_ns())
        refused(Reason.DEADLINE_EXCEEDED, runner.run, call)

    def test_a_deadline_ends_a_generation_and_not_the_next_one(self, tmp_path: Path):
        MODELS["t5"].save(tmp_path)
        runner = Runner(load_pipeline(tmp_path, "summarization", LoadOptions()))
        endless = {"min_new_tokens": 4_096, "max_new_tokens": 4_096}
        given = PipelineInput(text="a story")
        start = time.monotonic()
        refused(Reason.DEADLINE_EXCEEDED, runner.run, Call(input=given, parameters=endless, deadline_ns=time.monotonic_ns() + 500_000_000))
        assert time.monotonic() - start < 5
        assert runner.run(Call(input=given, parameters={})).value

    def test_a_text_that_is_longer_than_the_model_reads_is_refused_or_cut(self, tmp_path: Path):
        MODELS["t5"].save(tmp_path)
        runner = Runner(load_pipeline(tmp_path, "summarization", LoadOptions()))
        given = PipelineInput(text="story " * 2_000)
        assert "truncation" in refused(Reason.TEXT_TOO_LONG, runner.run, Call(input=given, parameters={}))
        assert runner.run(Call(input=given, parameters={"truncation": True})).value

    @pytest.mark.parametrize("error", [MemoryError(), RuntimeError("private"), ValueError("private")], ids=["memory", "runtime", "value"])
    def test_what_a_decoder_raises_is_a_fault_of_the_bytes(self, error: Exception, monkeypatch: pytest.MonkeyPatch):
        def fail(*arguments: Any) -> None:
            raise error

        monkeypatch.setattr(media, "image", fail)
        call = Call(input=PipelineInput(blob=Blob(data=png())), parameters={})
        assert "private" not in refused(Reason.MEDIA_INVALID, Runner(unloaded("image-classification")).run, call)

    @pytest.mark.parametrize("task", sorted(BY_NAME))
    @pytest.mark.parametrize(
        ("name", "value"), [("custom_generate", "x/y"), ("trust_remote_code", True), ("max_new_tokens", 10**9), ("what", 1)]
    )
    def test_a_parameter_among_the_parts_of_an_input_is_checked_as_one(self, task: str, name: str, value: Any):
        runner = Runner(unloaded(task, known={"max_new_tokens"}))
        call = Call(input=PipelineInput(fields={"text": "a", name: value}), parameters={})
        assert name in refused(Reason.PIPELINE_INPUT_INVALID, runner.run, call)
        call = Call(input=PipelineInput(fields={"text": "a", "max_new_tokens": 3}), parameters={})
        assert runner.run(call).value == {"text": "a", "max_new_tokens": 3}

    def test_what_a_pipeline_raises_of_itself_is_a_fault_of_the_server(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        MODELS["vit"].save(tmp_path)
        loaded = load_pipeline(tmp_path, "image-classification", LoadOptions())

        def fail(*arguments: Any) -> None:
            raise RuntimeError("private")

        monkeypatch.setattr(loaded.call, "_forward", fail)
        call = Call(input=PipelineInput(blob=Blob(data=png())), parameters={})
        assert "private" not in refused(Reason.INTERNAL, Runner(loaded).run, call)
