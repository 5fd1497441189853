"""Pictures for training and testing a face detector: folders, a teacher's labels, composites."""
