"""The job folder: the files by which the control plane and an attempt on the cluster communicate."""
