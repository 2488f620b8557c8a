"""A statement against the state: the rules of admission, replies, questions and explanations. Pure."""
