"""A household help desk: data, tokenizer and gold rule of the embedded demo."""
