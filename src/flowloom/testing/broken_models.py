"""x"""
MODELS={}
