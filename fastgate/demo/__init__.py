"""A character model trained on real text, written on the public functions alone: `python -m fastgate demo`.

options.py      what can be chosen, and the judgement of it
text.py         characters -> numbers -> batches that follow one another
model.py        embedding, stacked layers, output; its gradients; sampling.  Read this one first
train.py        Adam, one training step, the loop that Ctrl-C ends politely
checkpoint.py   the .npz that --resume continues bit for bit
progress.py  picture.py     a bar or plain lines; the curves
main.py         the whole story, top to bottom
"""
