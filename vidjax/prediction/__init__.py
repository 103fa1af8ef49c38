"""What a trained model says of videos that nobody has labelled."""
