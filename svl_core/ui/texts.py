"""Words that several steps of the page share: its title, token sets, notes and the glossary."""

from __future__ import annotations

TITLE = "Short-LVLM Explorer"
LEDE = (
    "Short-LVLM finds the decoder layers of a vision-language model that hardly change the tokens"
    " that matter, and drops them: move the slider and read both answers."
)

TOKEN_SETS = (
    ("important tokens", "important"),
    ("all tokens", "all"),
    ("visual tokens", "visual"),
    ("text tokens", "textual"),
    ("last token", "last"),
)

NO_IMAGE_NOTE = (
    "No image: the model was asked with words alone, so every figure is about its text tokens."
)
NO_PLACES_NOTE = (
    "No token of this model belongs to one part of the image, so there is nothing to draw over it:"
    " images enter by cross-attention, or each visual token sees all of them."
)

STALE = (
    "Not analyzed yet: everything below is still about the image and the prompt before. Press"
    " Analyze."
)

PHOTO_NOTE = (
    "The bundled model knows its small world of drawn objects only; about any other picture it"
    " guesses."
)

GLOSSARY = (
    (
        "SVL, Short-LVLM",
        (
            "The method that this page shows: find the decoder layers that hardly change the"
            " important tokens, drop them, and edit the weights before each gap so that the next"
            " layer gets about what it expects. No training."
        ),
    ),
    (
        "LVLM",
        (
            "Large vision-language model: a vision encoder turns the image into visual tokens, and"
            " a language model's decoder reads them together with the prompt."
        ),
    ),
    (
        "Token",
        (
            "What a decoder reads one of at a time: a word or a piece of one, a sign of the chat"
            " template, or a patch of the image."
        ),
    ),
    (
        "Patch",
        (
            "A small square of the image. The vision encoder makes a visual token of each, so that"
            " a picture is read like a sentence of patches."
        ),
    ),
    (
        "Hidden state",
        (
            "The list of numbers that stands for a token while it passes through the decoder, also"
            " called its features. All layers read it and add to it, so it is called the residual"
            " stream too."
        ),
    ),
    (
        "Layer, H[l]",
        (
            "A decoder layer adds to the features that pass through it. `H[l]` is what enters layer"
            " l (0-based), `H[l+1]` what leaves it, before the final norm."
        ),
    ),
    (
        "Attention",
        (
            "How a layer lets tokens look at each other: `A[i,j]` is the share of its look that"
            " token i gives to token j, averaged over heads. Every row adds up to 1, and a token"
            " sees itself and those before it."
        ),
    ),
    (
        "Cosine",
        (
            "How alike two hidden states point, whatever their length: `cos(x, y) = x·y / (|x|"
            " |y|)`, 1 for the same direction, 0 for unrelated ones."
        ),
    ),
    (
        "TIS",
        (
            "Token Importance Score, from attention alone. Visual token j: mean of `mean_i∈V"
            " A[i,j]` and `mean_i∈T A[i,j]`. Text token i: mean of `mean_j∈V A[i,j]` and the"
            " attention it receives from text."
        ),
    ),
    (
        "Top-p",
        (
            "Which tokens count as important: the best share p of them, or the fewest that hold a"
            " share p of the summed score; visual and text tokens apart."
        ),
    ),
    (
        "Redundancy",
        (
            "Mean over the important tokens of `cos(H[l], H[l+1])`. Near 1: the layer hardly turns"
            " the features."
        ),
    ),
    (
        "Ranking",
        (
            "Droppable layers by redundancy. Dropping n + 1 layers drops the same n and one more:"
            " the sets are nested."
        ),
    ),
    (
        "Feature gap",
        (
            "`|H[b+1] − H[a]| / |H[b+1]|` for dropped layers a..b: how far what arrives is from"
            " what the next layer was trained on."
        ),
    ),
    (
        "SCP",
        (
            "Subspace-Compensated Pruning, as published: with `V` the first k right singular"
            " vectors of `H[b+1] − H[a]`, the retained layer before the gap gets `W ← (I + strength"
            " · V Vᵀ) W`."
        ),
    ),
    (
        "Least squares",
        (
            "A stronger repair: the retained layer's output weights are fitted so that its output"
            " lands on the features that are missing (after ReplaceMe)."
        ),
    ),
    (
        "KL divergence",
        (
            "How far the pruned model's next-token distribution is from the full one's, in nats per"
            " token, both reading the full model's answer. 0: the same."
        ),
    ),
    ("Agreement", "Share of the tokens for which both models would write the same next token."),
    (
        "Prefill",
        (
            "The one pass over image and prompt before the first token of the answer; what it costs"
            " is the wait for that token."
        ),
    ),
    (
        "KV cache",
        (
            "What attention needs of every token read so far, its keys and values, kept layer by"
            " layer so that the next token costs one short pass. A dropped layer keeps none."
        ),
    ),
)

SOURCES = (
    (
        "The paper: “Short-LVLM: Compressing and Accelerating Large Vision-Language Models by"
        " Pruning Redundant Layers”, ACM MM 2025",
        "https://arxiv.org/abs/2507.23362",
    ),
    ("Its authors' repository", "https://github.com/ASGO-MM/Short-LVLM"),
)
"""Where the method comes from: (what, address)."""
