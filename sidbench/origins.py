"""What parameters of the three systems that sidbench grew from are called here: one table, told by errors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

TAAC, M1R, RVR = "the TAAC pipeline", "MiniOneRec", "RQ-VAE-Recommender"


#: Where all of them stand.
TABLE = "; docs/formats.md has all such names"


@dataclass(frozen=True)
class Origin:
    """One parameter of another system: what it is there, and what it is called here, if anything."""

    system: str
    theirs: str
    meaning: str
    #: Our parameters that say the same, the first one most of all; none where nothing does.
    ours: tuple[str, ...] = ()
    #: What differs, or what to do instead.
    note: str = ""


def _of(system: str, *rows: tuple[str, str, str, str]) -> tuple[Origin, ...]:
    return tuple(Origin(system, t, m, tuple(o.split(", ")) if o else (), n) for t, m, o, n in rows)


ORIGINS: tuple[Origin, ...] = (
    *_of(
        TAAC,
        ("input_dim", "columns of the embeddings", "", "taken from the data"),
        ("hidden_channels", "layers of the encoder", "hidden", "the decoder has them in reverse"),
        ("latent_dim", "columns of the latent", "latent", ""),
        ("num_codebooks", "codes in a SID", "levels", ""),
        ("codebook_size", "codes of each level", "codebook_size", "one number, or one a level"),
        ("codebook_emb_dim", "columns of the codewords", "latent", "codewords are as wide as the latent"),
        ("shared_codebook", "one codebook for all levels", "shared", ""),
        ("kmeans_method", "plain or balanced k-means", "start", "kmeans or balanced"),
        ("kmeans_iters", "iterations of k-means", "iters", "of rq-kmeans; fixed for first codebooks"),
        ("distances_method", "euclidean or cosine", "distance", ""),
        ("loss_beta", "weight of the commitment", "beta", "summed over dimensions, not their mean"),
    ),
    *_of(
        M1R,
        ("num_emb_list", "a list of codes a level", "codebook_size, levels", "levels is the list's length"),
        ("e_dim", "columns of the latent", "latent", ""),
        ("layers", "layers of the encoder", "hidden", "the decoder has them in reverse"),
        ("dropout_prob", "dropout between layers", "dropout", ""),
        ("bn", "batch normalisation", "batch_norm", ""),
        ("loss_type", "mse or l1", "reconstruction", "summed over dimensions, not their mean"),
        (
            "quant_loss_weight",
            "weight of the quantizer's loss",
            "beta",
            "its codebook loss has weight 1 here",
        ),
        ("beta", "weight of the commitment", "beta", "summed over dimensions and levels, not the mean"),
        ("kmeans_init", "first codebooks by k-means", "start", "kmeans or random"),
        (
            "kmeans_iters",
            "iterations of the first k-means",
            "iters",
            "of rq-kmeans; fixed for first codebooks",
        ),
        ("sk_epsilons", "Sinkhorn's epsilon for each level", "sinkhorn", "0 is the nearest codeword"),
        ("sk_iters", "Sinkhorn's iterations", "sinkhorn_iters", ""),
        ("learner", "the optimizer", "optimizer", "adam, adamw, sgd, adagrad or rmsprop"),
        ("lr_scheduler_type", "how the learning rate falls", "schedule", "constant, linear or cosine"),
        ("warmup_epochs", "epochs of warm-up", "warmup", "a share of all steps"),
        ("eval_step", "epochs between two looks at collisions", "check_every", ""),
        ("save_limit", "checkpoints kept", "keep_checkpoints", ""),
        ("ckpt_dir", "folder of checkpoints", "", "with the run, in its results folder"),
        ("data_path", "the embeddings", "", "--dataset, or --items"),
        ("num_workers", "workers that load data", "", "data are in memory or mapped; --threads"),
        ("num_levels", "codes in a SID (rqkmeans_faiss.py)", "levels", ""),
        ("uniform", "even codes (rqkmeans_faiss.py)", "", "a method of its own: rq-kmeans-balanced"),
        ("k", "codes of a level (rqkmeans_constrained.py)", "codebook_size", ""),
        ("l", "codes in a SID (rqkmeans_constrained.py)", "levels", ""),
        ("max_iter", "iterations of k-means (rqkmeans_constrained.py)", "iters", ""),
        ("pretrained_codebook_path", "an .npz of codebooks (rqkmeans_plus.py)", "codebooks", ""),
    ),
    *_of(
        RVR,
        ("iterations", "training steps", "epochs", "times that the catalogue is seen"),
        ("learning_rate", "the learning rate", "lr", ""),
        ("commitment_weight", "weight of the commitment", "beta", ""),
        ("vae_input_dim", "columns of the embeddings", "", "taken from the data"),
        ("vae_embed_dim", "columns of the latent", "latent", ""),
        ("vae_hidden_dims", "layers of the encoder", "hidden", "the decoder has them in reverse"),
        ("vae_codebook_size", "codes of every level", "codebook_size", ""),
        ("vae_n_layers", "codes in a SID", "levels", ""),
        (
            "vae_codebook_normalize",
            "normalised codewords",
            "normalize_residuals",
            "at every level, not the first",
        ),
        (
            "vae_codebook_mode",
            "how gradients pass a choice",
            "estimator",
            "straight-through, rotation, gumbel",
        ),
        ("vae_sim_vq", "SimVQ", "simvq", ""),
        ("vae_n_cat_feats", "columns that are categories", "", "embeddings are numbers alone"),
        ("use_kmeans_init", "first codebooks by k-means", "start", "kmeans or random"),
        ("pretrained_rqvae_path", "a checkpoint to go on from", "", "the same command goes on by itself"),
        ("amp", "mixed precision", "precision", "auto, fp32 or bf16"),
        ("mixed_precision_type", "fp16 or bf16", "precision", "auto, fp32 or bf16"),
        ("gradient_accumulate_every", "batches a step", "batch_size", "one batch a step: a larger one"),
        ("save_model_every", "steps between checkpoints", "checkpoint_every", "in seconds"),
        ("eval_every", "steps between two looks at collisions", "check_every", "in epochs"),
        ("dataset_folder", "the data", "", "--dataset"),
        ("dataset_split", "which of the Amazon data", "", "--dataset"),
    ),
)


def advice(name: str, key: str, known: Iterable[str]) -> str:
    """What a wrong parameter is elsewhere and here, as the end of a sentence; empty where unknown."""
    there = set(known)
    plain = key.lower().replace("-", "_")
    said = []
    for o in ORIGINS:
        if o.theirs != plain or (o.ours and o.ours[0] == key):
            continue
        here = [p for p in o.ours if p in there]
        if here:
            answer = f"here {' and '.join(here)}"
        elif o.ours:
            answer = f"here {' and '.join(o.ours)}, which {name} does not have"
        else:
            answer = "here no parameter"
        said.append(f"in {o.system} that is {o.meaning}, {answer}" + (f" ({o.note})" if o.note else ""))
    return "; ".join(said) + TABLE if said else ""
