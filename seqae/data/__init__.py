"""Data sets: MNIST-Scenes, image folders and COCO, built once into a cache."""
