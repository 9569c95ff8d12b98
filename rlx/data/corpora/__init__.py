"""What a model is trained on: streams of documents."""
