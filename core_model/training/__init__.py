"""Training: concepts and captions, surrogate features, the loop, one command per trained part."""
