"""seqae: an attentive sequential auto-encoder that rebuilds a scene object by object.

The model of "Attentive Sequential Auto-Encoding Towards Unsupervised Object-centric Scene Modeling"
(Cetin and Cinbis, 2022). Importing this package imports nothing heavy; import the modules you need.
"""
