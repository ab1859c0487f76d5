"""Files of other programs that are damaged or made to take memory and time: each is refused at once, with its cause."""

import json
import time
import zipfile

import numpy as np
import pytest
import safetensors.numpy

from ahs_seg_jax.checkpoints import converted, manifest
from ahs_seg_jax.checkpoints.formats import convert, readers, writers
from ahs_seg_jax.checkpoints.formats.stated import Stated
from ahs_seg_jax.checkpoints.manifest import Pretrained
from ahs_seg_jax.checkpoints.pretrained import load_pretrained, training_meta
from ahs_seg_jax.errors import CheckpointError
from tests.support.torch_files import finished, module_pickle, named, script_archive, short, tensor_pickle, write_zip

DEEP = "[" * 100_000 + "]" * 100_000


@pytest.fixture(autouse=True)
def quick():
    """No refusal takes long."""
    start = time.monotonic()
    yield
    assert time.monotonic() - start < 60


@pytest.fixture
def clip(visible, random_params):
    """The tensors of an OpenAI file."""
    params = random_params("openai_clip", visible)
    return {names[0]: value for names, value in convert.state_dict("openai_clip", visible, params)}


def refused(path, match):
    with pytest.raises(CheckpointError, match=match) as caught:
        convert.read(path, statements=[Stated("quick_gelu", stated_by="the test")])
    assert path.name in str(caught.value)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pth"])
def test_turned_bits_of_files_that_this_program_writes(suffix, request, visible, random_params, assert_same, tmp_path):
    if suffix == ".pth":
        request.getfixturevalue("torch")
    params, random, refusals = random_params("catseg", visible), np.random.default_rng(0), 0
    path = writers.write(tmp_path / f"file{suffix}", "catseg", visible, params)
    content = path.read_bytes()
    for _ in range(25):
        data, byte = bytearray(content), int(random.integers(len(content)))
        data[byte] ^= 1 << int(random.integers(8))
        path.write_bytes(data)
        try:
            found = convert.read(path)
        except CheckpointError:
            refusals += 1
        else:
            assert_same(found.params, params)  # the bit lies between the members of the file
    assert refusals > 20


@pytest.mark.parametrize(
    "name", ["visual.transformer.resblocks.1000000.ln_1.weight", "transformer.resblocks.999999999.x"]
)
def test_names_of_layers_that_are_not_there(name, clip, tmp_path):
    path = tmp_path / "file.safetensors"
    safetensors.numpy.save_file(clip | {name: np.zeros(1, np.float32)}, path)
    refused(path, r"has \d+ tensors, and by their names or its configuration \d+ layers of the (image|text) part")


@pytest.mark.parametrize(
    ("stated", "match"),
    [
        ({"num_hidden_layers": 10**9}, "configuration 1000000000 layers of the image part"),
        ({"num_hidden_layers": "many"}, "num_hidden_layers in config.json is 'many', not a number of layers"),
        ({"num_attention_heads": 0}, "num_attention_heads in config.json is 0, not a number of heads"),
        ([3], "vision_config in config.json is a list, not a JSON object"),
    ],
)
def test_configurations_of_other_programs(stated, match, visible, random_params, tmp_path):
    folder = writers.write(tmp_path / "clip", "hf_clip", visible, random_params("openai_clip", visible))
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"] = config["vision_config"] | stated if isinstance(stated, dict) else stated
    (folder / "config.json").write_text(json.dumps(config))
    data = safetensors.numpy.load_file(folder / "model.safetensors")
    safetensors.numpy.save_file(data, folder / "model.safetensors")  # without our own configuration
    refused(folder, match)


@pytest.mark.parametrize(
    "index",
    ["[]", "3", '{"weight_map": ["a"]}', '{"weight_map": {"a": 3}}', "{}", DEEP, "\xff"],
    ids=lambda text: text[:9],
)
def test_indices_that_are_none(index, tmp_path):
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip/model.safetensors.index.json").write_bytes(index.encode("latin-1"))
    with pytest.raises(CheckpointError, match=r"index\.json is (malformed|damaged)"):
        convert.read(tmp_path / "clip")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"image": {"heads": 0}}, r"model\.image\.heads is 0; it must be at least 1"),
        ({"image": {"layers": -5}}, r"model\.image\.layers is -5; it must be at least 1"),
        ({"aggregator": {"decoder": [0, 16]}}, r"model\.aggregator\.decoder is \(0, 16\); it must be at least 1"),
        ({"text": {"width": "wide"}}, r"model\.text\.width is 'wide' \(str\); it must be of type int"),
        ({"text": [1]}, r"model\.text is \[1\]; it must be a group of fields"),
        ([], "holds a list where a model configuration is expected"),
    ],
)
def test_configurations_in_manifests(change, match, plain, random_params, tmp_path):
    about = manifest.describe(plain, {"path": "f"}) | {"config": change}
    path = converted.save_converted(tmp_path / "a", Pretrained(plain, random_params("catseg", plain), about))
    with pytest.raises(CheckpointError, match=match):
        load_pretrained(path)


@pytest.mark.parametrize(
    "text",
    ["[]", "3", "null", DEEP, "{}", '{"format_version": "1"}', '{"format_version": 1, "training": [3]}', "\xff\xfe"],
    ids=lambda text: text[:24],
)
def test_manifests_that_are_none(text, plain, random_params, tmp_path):
    about = manifest.describe(plain, {"path": "f"})
    path = converted.save_converted(tmp_path / "a", Pretrained(plain, random_params("catseg", plain), about))
    (path / "manifest.json").write_bytes(text.encode("latin-1"))
    for read in (load_pretrained, training_meta):
        with pytest.raises(CheckpointError, match=r"manifest\.json is damaged: .*convert the checkpoint again"):
            read(path)


def test_modules_that_share_their_children_are_visited_once(tmp_path):
    def archive(pickled):
        return script_archive(tmp_path / "m.pt", finished(pickled), [("0", np.arange(6, dtype=np.float32).tobytes())])

    shared = module_pickle({"w": tensor_pickle()}) + b"q\x01"
    with readers.open_tensors(archive(module_pickle({"a": shared, "b": b"h\x01"}))) as file:
        assert list(file.tensors) == ["a.w", "b.w"]  # as the state_dict of torch
        np.testing.assert_array_equal(file.tensors["a.w"].load(), file.tensors["b.w"].load())
    pickled = tensor_pickle()
    for _ in range(40):  # 2 kB, and 2^40 ways from the root to the tensor
        pickled = module_pickle({"a": pickled + b"q\x01", "b": b"h\x01"})
    refused(archive(pickled), f"refused: its modules have {2**41 - 1} attributes, a model has at most 100000")
    within_itself = named("__torch__.net", "Net") + b")\x81q\x01}(" + short("a") + b"h\x01" + short("b") + b"h\x01ub"
    refused(archive(within_itself), "its modules nest deeper than 64; the file is malformed")


def test_archives_that_unpack_to_gigabytes(tmp_path):
    path = tmp_path / "m.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("m/data.pkl", "w", force_zip64=True) as member:
            for _ in range(300):
                member.write(bytes(2**20))
        archive.writestr("m/constants.pkl", b"")
        archive.writestr("m/code/x.py", b"")
    refused(path, r"refused: unpacked it would take 314572800 bytes, 100 times its own size")
    refused(
        script_archive(tmp_path / "n.pt", b"\x80\x02" + b"N0" * (2**25 + 1) + b"N."), "refused: its pickle has .* bytes"
    )


@pytest.mark.parametrize("kind", ["npz", "pt"])
def test_encrypted_archives(kind, clip, tmp_path):
    path = tmp_path / f"file.{kind}"
    members = {"a.npy": bytes(50)} if kind == "npz" else {"m/data.pkl": b"x", "m/constants.pkl": b"", "m/code/a": b""}
    write_zip(path, members)
    data = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + offset] |= 1
    path.write_bytes(data)
    refused(path, "is encrypted; give the file as it was before")


def test_tensors_larger_than_what_is_stored_of_them(torch, clip, tmp_path):
    state = {name: torch.from_numpy(value) for name, value in clip.items()}
    state["token_embedding.weight"] = torch.zeros(1).expand(10**7, state["token_embedding.weight"].shape[1])
    torch.save(state, tmp_path / "file.pth")
    refused(tmp_path / "file.pth", r"its tensor token_embedding\.weight is larger than what is stored of it")


def test_deep_json_in_files_of_ours(clip, tmp_path):
    safetensors.numpy.save_file(clip, tmp_path / "f.safetensors", {readers.CONFIG_KEY: DEEP})
    refused(tmp_path / "f.safetensors", "is damaged: it is not JSON")
    np.savez(tmp_path / "f.npz", **clip, **{readers.CONFIG_KEY: np.asarray(DEEP)})
    refused(tmp_path / "f.npz", "is damaged: it is not JSON")
    np.savez(tmp_path / "g.npz", **clip, **{readers.CONFIG_KEY: np.arange(3)})
    refused(tmp_path / "g.npz", "its ahs_seg_jax_config is no text")


def test_a_user_who_is_not_there():
    for read in (load_pretrained, training_meta, convert.read):
        with pytest.raises(CheckpointError, match="there is no checkpoint at ~nosuchuser/x"):
            read("~nosuchuser/x")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite(value, clip, tmp_path):
    clip["visual.proj"][0, 0] = value
    np.savez(tmp_path / "f.npz", **clip)
    refused(tmp_path / "f.npz", r"visual\.proj holds values that are not finite")


def test_texts_of_pickles_are_short(tmp_path):
    refused(script_archive(tmp_path / "m.pt", finished(short("no module"))), "no checkpoint that is known here")


def test_names_in_files_do_not_steer_the_terminal(tmp_path):
    np.savez(tmp_path / "f.npz", **{"\x1b[31mred\x07\u202e": np.zeros(1)})
    with pytest.raises(CheckpointError, match=r"the first names are: \\x1b\[31mred\\x07\\u202e") as caught:
        convert.read(tmp_path / "f.npz")
    assert str(caught.value).isprintable()
