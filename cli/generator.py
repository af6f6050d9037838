"""placeholder"""
def generate(*a): raise NotImplementedError
