"""What tests share: tiny models, texts, stores, commands and kills."""
