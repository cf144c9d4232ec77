"""Text encoders: a hashed bag of words, and small models of the real kinds in folders as `save_pretrained` makes them."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from robolearn.core.errors import UserError
from robolearn.models.language.base import LanguageConfig
from robolearn.models.language.hashed import HashedConfig
from robolearn.models.language.transformer import TransformerConfig

transformers = pytest.importorskip("transformers", reason="pip install robolearn[language]")
tokenizers = pytest.importorskip("tokenizers")

WORDS = ["lift", "the", "red", "cube", "open", "drawer", "put", "it", "on", "green"]
SIZES = {"vocab_size": len(WORDS) + 4, "num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 16}
TEXT = {**SIZES, "max_position_embeddings": 12, "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
VISION = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "image_size": 16, "patch_size": 8}


def bert():
    return transformers.BertModel(transformers.BertConfig(**SIZES, max_position_embeddings=12))


def t5():
    config = transformers.T5Config(vocab_size=SIZES["vocab_size"], d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    return transformers.T5EncoderModel(config)


def clip():
    sizes = {"projection_dim": 10}
    return transformers.CLIPModel(transformers.CLIPConfig(text_config={**TEXT, **sizes}, vision_config={**VISION, **sizes}, **sizes))


def siglip():
    return transformers.SiglipModel(transformers.SiglipConfig(text_config={**TEXT, "projection_size": 16}, vision_config=VISION))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """folder(make, seed): a model with random weights and a tokenizer of a few words, each made once."""
    made = {}

    def make(model, seed=0):
        if (model, seed) not in made:
            made[model, seed] = tmp_path_factory.mktemp(model.__name__)
            torch.manual_seed(seed)
            model().save_pretrained(made[model, seed])
            tokenizer().save_pretrained(made[model, seed])
        return made[model, seed]

    bars = transformers.utils.logging
    bars.disable_progress_bar()
    yield make
    bars.enable_progress_bar()


def tokenizer(words=WORDS):
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    fast = tokenizers.Tokenizer(tokenizers.models.WordLevel({w: i for i, w in enumerate([*special, *words])}, unk_token="[UNK]"))
    fast.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    fast.post_processor = tokenizers.processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=fast, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", eos_token="[SEP]", model_max_length=12
    )


def tokens(text):
    return tokenizer()(text, return_tensors="pt")


def scaled(vector):
    return (vector / vector.square().mean().sqrt()).numpy()


def test_hashed_words_know_shared_words_and_nothing_else():
    encoder = HashedConfig(dim=512).build()
    lift, again, other, apart = encoder.embed(["lift the red cube", "Lift the red cube!", "lift the green cube", "open a drawer"])
    assert encoder.dim == 512 and lift.dtype == np.float32 and np.mean(lift**2) == pytest.approx(1, abs=1e-6)
    np.testing.assert_array_equal(lift, again)
    assert np.mean(lift * other) == pytest.approx(3 / 4, abs=0.1) and abs(np.mean(lift * apart)) < 0.15
    np.testing.assert_array_equal(lift, encoder.embed(["cube red the lift"])[0])  # no order: said in its docstring
    assert HashedConfig(dim=10).build().embed(["lift"]).shape == (1, 10)
    with pytest.raises(UserError, match=r"instruction: '!\?'; expected words"):
        encoder.embed(["!?"])
    with pytest.raises(UserError, match="policy.language.dim: 0 numbers; expected at least 1"):
        HashedConfig(dim=0).build()


def test_hashed_words_are_the_same_in_every_process_and_version():
    np.testing.assert_array_equal(HashedConfig(dim=12).build().embed(["cube"])[0], [1, 1, 1, 1, -1, -1, -1, 1, 1, -1, -1, -1])


@pytest.mark.parametrize(
    ("model", "kind", "dim"), [(bert, "BertModel", 16), (t5, "T5EncoderModel", 16), (clip, "CLIP", 10), (siglip, "Siglip", 16)]
)
def test_an_embedding_is_of_unit_size_and_does_not_depend_on_its_neighbours(folder, model, kind, dim, capfd):
    encoder = TransformerConfig(weights=str(folder(model))).build()
    assert encoder.dim == dim and type(encoder.model).__name__.startswith(kind)
    texts = ["lift the red cube", "open it", " ".join(WORDS * 3)]
    together = encoder.embed(texts)
    assert together.shape == (3, dim) and together.dtype == np.float32
    np.testing.assert_allclose(np.square(together).mean(1), 1, rtol=1e-5)
    for text, row in zip(texts, together, strict=True):
        np.testing.assert_array_equal(encoder.embed([text])[0], row)
    assert not np.allclose(together[0], together[1])
    assert capfd.readouterr() == ("", ""), "no bars, no lists of tensors that a text tower leaves out"


def test_a_sentence_is_the_mean_of_its_words(folder):
    reference = transformers.BertModel.from_pretrained(folder(bert)).eval()
    with torch.no_grad():
        states = reference(**tokens("lift the cube")).last_hidden_state[0]
    found = TransformerConfig(weights=str(folder(bert))).build().embed(["lift the cube"])[0]
    np.testing.assert_allclose(found, scaled(states.mean(0)), rtol=1e-5, atol=1e-6)


def test_clip_and_siglip_answer_where_they_meet_images(folder):
    for model, cls, given in (
        (clip, transformers.CLIPModel, tokens("lift the cube")),
        (
            siglip,
            transformers.SiglipModel,
            {"input_ids": tokenizer()("lift the cube", padding="max_length", return_tensors="pt")["input_ids"]},
        ),
    ):
        with torch.no_grad():
            answer = cls.from_pretrained(folder(model)).eval().get_text_features(**given)
        expected = getattr(answer, "pooler_output", answer)[0]
        found = TransformerConfig(weights=str(folder(model))).build().embed(["lift the cube"])[0]
        np.testing.assert_allclose(found, scaled(expected), rtol=1e-5, atol=1e-5)


def test_another_encoder_is_refused(folder, tmp_path):
    config = TransformerConfig(weights=str(folder(bert)))
    encoder = config.build()
    filled = replace(config, dim=encoder.dim, digest=encoder.digest)
    assert filled.build().digest == encoder.digest
    with pytest.raises(UserError, match="is not the text encoder the policy learned with: its digest is .*, the policy's") as error:
        replace(filled, weights=str(folder(bert, seed=1))).build()
    assert "\n" not in str(error.value)
    bert_again = transformers.BertModel.from_pretrained(folder(bert))
    bert_again.save_pretrained(tmp_path)
    tokenizer([*WORDS[1:], WORDS[0]]).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="is not the text encoder"):  # the same weights, but other words
        replace(filled, weights=str(tmp_path)).build()
    with pytest.raises(UserError, match="hashed is not the text encoder"):
        HashedConfig(digest=encoder.digest).build()


def test_a_pooler_that_is_not_used_may_be_absent_and_changes_nothing(folder, tmp_path):
    transformers.BertModel.from_pretrained(folder(bert), add_pooling_layer=False).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    first, second = (TransformerConfig(weights=str(tmp_path)).build() for _ in range(2))
    assert first.digest == second.digest


def test_what_is_no_text_encoder_is_one_line(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # as without a network, without the wait
    with pytest.raises(
        UserError, match=r"policy.language.weights: '.*absent' is neither a folder with a text encoder .* nor one on the hub"
    ) as error:
        TransformerConfig(weights=str(tmp_path / "absent")).build()
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="'org/model' is neither"):
        TransformerConfig(weights="org/model").build()
    vision = transformers.CLIPModel.from_pretrained(folder(clip))
    state = {name: value for name, value in vision.state_dict().items() if not name.startswith("text_projection")}
    vision.save_pretrained(tmp_path, state_dict=state)
    tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="'text_projection.weight' and 0 more tensors of CLIPTextModelWithProjection are missing"):
        TransformerConfig(weights=str(tmp_path)).build()
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"pip install robolearn\[language\]"):
        TransformerConfig(weights=str(folder(bert))).build()
    with pytest.raises(UserError):
        LanguageConfig().build()
