"""Does the selection help? SmolLM2-135M trained further on a corpus plus extra tokens, six kinds of extra tokens.

    python experiments/does_it_help.py                          as large as two cores allow in about an hour
    python experiments/does_it_help.py --tokens 1_000_000       larger, for a GPU; the corpus must have that many tokens

Needs   experiments/pilot.py done, pip install -r requirements/eval.txt, --no-deps -r requirements/tasks.txt
Writes  data/does_it_help/: shards, selections, probes, and measured.json of each run; the same command continues
        experiments/results/does_it_help.json and .png; python docs/fill_tables.py puts the tables into docs/results.md

The mix is the paper's: 76.5 % of the tokens from the corpus, 23.5 % extra. The corpus is the pool that pilot.py scored.
Extra tokens come from a fifth of the tokens of each domain of that pool, so no arm changes the share of a domain:

AI_Score           the highest AI_Score
AI_Score_novel     the highest AI_Score_novel, which leaves out tokens that copy (n = 5)
random             random documents, in each domain and class of length as many tokens as in the AI_Score arm
lowest L_base      the lowest loss of the base model, a perplexity filter
lowest AI_Score    the lowest AI_Score
corpus             nothing extra: all tokens from the corpus

All arms have the same number of tokens and steps. For one seed, all arms start from the same weights, and those with
extra tokens read the same tokens of the corpus at the same steps. No document is read more often than in the paper: no
part of the corpus more than once, no selected document more than twice, once of these as a part of the corpus.

Measured on each model, all losses in nats per token: held-out documents of each domain, from sources of which nothing
is in the pool, and the mean of the domains; worked solutions of GSM8K and MATH; the last word of LAMBADA; the first
accepted answer of SQuAD and DROP, after passage and question; the answers of probes, and the share of their tokens that
are the model's first choice; and how much the loss falls from token 50 to token 500 of held-out documents. "What needs
the context" is the mean of the losses of LAMBADA, SQuAD, DROP and the probes.

Written before the first run:

H1  AI_Score has a lower mean held-out loss than random.                                    The claim; primary
H2  AI_Score has a lower mean held-out loss than lowest L_base.                             More than perplexity
H3  AI_Score_novel has a lower mean held-out loss than AI_Score.                            Copies do harm
H4  Lowest AI_Score has a higher mean held-out loss than random.                            The other end
H5  AI_Score is better than random at what needs the context (their mean loss), and falls more from token 50 to 500.

Decision: for each pair of arms and measure, the differences of the runs of one seed are a sample; their mean has a 95 %
interval by Student's t. An arm "helps" or "harms" against the other only if that interval leaves out 0; otherwise it is
"not decided". A hypothesis is confirmed if its arm helps (in H4: harms), refuted if it does the opposite, else not
decided. Only these hypotheses are tested; all other differences, of which one in twenty leaves out 0 by chance, are for
orientation. The smallest difference that the design could have seen is the one that such a test finds in four of five
repetitions: (t(97.5 %) + t(80 %)) times the standard error. The interval speaks of other seeds (draws and orders of
training text), not of other held-out documents, corpora or models.
"""
