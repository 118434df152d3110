"""The page's words: headings, the one-line readings, the "why" behind each figure, token sets and
notes.
"""

from __future__ import annotations

TITLE = "Short-LVLM Explorer"
LEDE = (
    "See which layers of a vision-language model hardly change anything, drop them with a slider,"
    " and read both answers side by side."
)

STEPS = {
    "ask": (
        "Ask about an image",
        (
            "Take an example, compose a scene of your own, or bring an image. Then press Analyze:"
            " one forward pass is all the figures below need."
        ),
    ),
    "look": (
        "Which patches and words matter",
        (
            "Token importance scores tell which patches and words the model's attention relies on."
            " Short-LVLM judges layers on these tokens only."
        ),
    ),
    "layers": (
        "Which layers are redundant",
        (
            "A layer whose output points the same way as its input did little. The closer its"
            " cosine is to 1, the safer it is to drop."
        ),
    ),
    "gap": (
        "What a drop tears open",
        (
            "Take layers out and the next one receives features it was never trained on. The gap"
            " says how far off they are; compensation tries to close it."
        ),
    ),
    "answers": (
        "Drop layers, read both answers",
        (
            "The pruned model shares every untouched weight with the full one. Both write their"
            " answers at the same time."
        ),
    ),
    "evidence": (
        "Does it hold beyond this image?",
        (
            "One image may mislead. Here many samples rank the layers, a sweep finds the cliff, and"
            " a map shows what each layer is for."
        ),
    ),
    "share": (
        "Take it with you",
        "A link to this very state, a report that needs no network, and the code that repeats it.",
    ),
}

# heading, how to read it, why it is so
FIGURES = {
    "overlay": (
        "Importance over the image",
        (
            "Bright patches matter most; <strong>white outlines</strong> mark those that count."
            " Click a patch for its layer-by-layer curve."
        ),
        (
            "A visual token's score is the mean of two averages: the attention it receives from the"
            " other patches and the attention it receives from the words, averaged over heads (and"
            " over layers unless you pick one). Top-p keeps the best share p of the patches and of"
            " the words, each on its own."
        ),
    ),
    "tokens": (
        "Importance over the prompt",
        (
            "The <strong>bar</strong> under a token is its score; solid frames count, dashed ones"
            " do not. Italic tokens belong to the chat template."
        ),
        (
            "A text token's score is the mean of how much it looks at the image and how much"
            " attention it receives from the other text tokens."
        ),
    ),
    "redundancy": (
        "Redundancy of every layer",
        (
            "<strong>Higher is more redundant.</strong> Crosses mark the dropped layers, arrows"
            " protected ones far below. Where the lines part, the choice of tokens decides which"
            " layers go."
        ),
        (
            "For every layer l the figure shows the mean of cos(H[l], H[l+1]) over the tokens of a"
            " set, where H[l] is what enters the layer and H[l+1] what leaves it, before the final"
            " norm. Averaging over all tokens lets the many unimportant ones decide; Short-LVLM"
            " averages over the important ones."
        ),
    ),
    "similarity": (
        "Similarity between layers",
        (
            "<strong>Bright blocks on the diagonal</strong> are stretches of layers that change"
            " little. Orange frames mark what you drop."
        ),
        (
            "The cell in row i and column j is the mean cosine between the features after layers i"
            " and j. A bright square of several layers can often go as one block."
        ),
    ),
    "gap": (
        "Feature gap, layer by layer",
        (
            "<strong>Tall bars change the features a lot.</strong> Hatched bars are dropped; the"
            " orange line is the gap of a whole dropped run."
        ),
        (
            "The relative gap of layer l is |H[l+1] - H[l]| / |H[l+1]| over the important tokens;"
            " for a run a..b it is |H[b+1] - H[a]| / |H[b+1]|. The next layer expects H[b+1] and"
            " now receives H[a]."
        ),
    ),
    "pca": (
        "Retained and dropped features",
        (
            "<strong>Circles</strong>: what the next layer now receives. <strong>Diamonds</strong>:"
            " what it was trained on. Compensation should move the marks onto the diamonds."
        ),
        (
            "Both sets of features of the important tokens are projected onto their two principal"
            " components. SCP takes the leading right singular vectors V of H[b+1] - H[a] and edits"
            " the retained layer's output weights, W ← (I + strength · V Vᵀ) W; least squares fits"
            " the output weights to the features that are missing."
        ),
    ),
}

FIGURES |= {
    "blocks": (
        "Blocks of layers",
        (
            "Each cell is a block: where it starts, how many layers it has. <strong>Bright blocks"
            " change little; click one to drop it.</strong>"
        ),
        (
            "The cell compares what enters the block with what leaves it: cos(H[s], H[s+n]),"
            " averaged over the tokens chosen for the heatmap. Methods such as PruneMe and"
            " LLM-Streamline drop one whole block; Short-LVLM may drop layers here and there."
        ),
    ),
    "criteria": (
        "Every criterion's choice",
        (
            "One row a criterion, at the same number of layers: gaps are dropped. <strong>Click a"
            " row to take its plan.</strong>"
        ),
        (
            "All criteria see the same forward pass, but for those that run the model again with"
            " layers skipped. Where their rows differ, they disagree about which layers do little;"
            " the answers tell who was right."
        ),
    ),
    "odds": (
        "Probability of each token",
        (
            "The full model's answer, token by token: <strong>blue</strong> is its own probability,"
            " <strong>hatched orange</strong> the pruned model's. Frames mark tokens that lost more"
            " than half."
        ),
        (
            "Both models read the full model's answer up to each token and predict that token. KL"
            " divergence and agreement in the table are averages over these predictions."
        ),
    ),
    "difference": (
        "Importance, full minus pruned",
        (
            "Full and pruned model share one colour scale. On the right, <strong>blue with"
            " +</strong>: the full model relies on the patch more; <strong>orange with −</strong>:"
            " the pruned one does."
        ),
        (
            "Both maps are averaged over the layers that both models have, so that a dropped"
            " layer's own taste does not count as a change. Where the map moves although the answer"
            " stays, the model found another way to the same word; where it moves to the wrong"
            " object, the drop cost it the binding."
        ),
    ),
    "variants": (
        "Variants side by side",
        (
            "Keep a plan with its answers as a card, change something, keep that too."
            " <strong>Load</strong> brings a card's image, prompt, plan and settings back."
        ),
        "",
    ),
}

FIGURES |= {
    "calibration": (
        "What ranks, and what is fitted on",
        (
            "<strong>Fit and measurement should not share samples.</strong> The note under the plan"
            " says what this page does now. Your own files may include one .jsonl of image and"
            " prompt."
        ),
        (
            "A ranking from one image is quick and fits that image; a ranking from many is the one"
            " to prune a model by. Compensation fitted on the very sample that is then measured"
            " looks better than it is: with a set of its own, the sample shown above is new to it."
        ),
    ),
}

FIGURES |= {
    "stability": (
        "How sure is the ranking?",
        (
            "Bars are 95 % intervals over resampled sets. <strong>Where bars of a kept and a"
            " dropped layer overlap, another set might choose otherwise.</strong> Green diamonds:"
            " this image alone."
        ),
        (
            "The samples of the set are drawn again with replacement, 1,000 times, and the layers"
            " are ranked anew each time; no sample is measured twice for it. A criterion that"
            " re-scores after every drop (SLEB, greedy KL) is resampled round by round, each given"
            " the layers that the whole set dropped before it, for without others the model was"
            " never run; its bars are those of the first round, in which each layer is skipped"
            " alone. A random order has nothing to resample; for it SVL's own is shown."
        ),
    ),
    "overlap": (
        "This image against the set",
        (
            "At each number of layers: how many of them both would drop. <strong>On the dotted"
            " line</strong> the image says no more than a draw of lots."
        ),
        (
            "Dropping most layers makes any two choices agree, so chance rises with the number."
            " What counts is the distance above the dotted line at the number that you drop."
        ),
    ),
    "sweep": (
        "Where is the cliff?",
        (
            "<strong>Higher is better for agreement, lower for KL.</strong> A triangle marks the"
            " steepest fall of a line, if it is at least a tenth. Click a point to load its plan"
            " and settings."
        ),
        (
            "Each point is a pruned model: layers ranked and compensation fitted on one set of"
            " samples, fidelity measured on others under teacher forcing on the full model's own"
            " greedy answers. Random is drawn three times; its bars are standard deviations."
        ),
    ),
    "pareto": (
        "Fidelity against speed",
        (
            "<strong>Up and to the right is better.</strong> The orange line joins the models that"
            " no other beats in both. Click a point to load its plan and settings."
        ),
        (
            "Speed-ups are measured here: full and pruned model answer in turn, five times, and"
            " medians are compared. Which layers are gone makes no difference to the work, so a"
            " size is timed once. On a small model a CPU's fixed costs hide part of the gain."
        ),
    ),
    "ablation": (
        "What is each layer for?",
        (
            "<strong>Bright: lost without it.</strong> Each column is a layer (or a block of"
            " layers) taken out alone, each row a kind of question, a sample or a word. Click a"
            " cell to drop that layer."
        ),
        (
            "The model without the block reads the full model's own answers token by token. A layer"
            " that is bright in one row only holds one skill; a dark column is a layer that nothing"
            " here needs, although what needs it may not have been asked."
        ),
    ),
}

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
    "The bundled model knows its small world of drawn objects only, and answers about photos are"
    " guesses. For a photo choose SmolVLM-256M-Instruct above: it is downloaded once (about 500 MB)"
    " and runs on a CPU."
)

GLOSSARY = (
    (
        "LVLM",
        (
            "Large vision-language model: a vision encoder turns the image into visual tokens, and"
            " a language model's decoder reads them together with the prompt."
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
    ("Prefill", "The pass over image and prompt before the first token of the answer."),
)
