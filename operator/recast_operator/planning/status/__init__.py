"""What is said: facts into conditions, numbers into printer columns, sentences in one place."""
