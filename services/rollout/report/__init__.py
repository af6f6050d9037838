"""A job's report: its facts, figures drawn from them, and a page for people that says where each number comes from."""
