"""Text as tokens: documents, blocks, tokenizers with fewer tokens, text that a model writes.

Takes a file's settings and a tokenizer; gives blocks of token ids for calibration and judgement.
"""
