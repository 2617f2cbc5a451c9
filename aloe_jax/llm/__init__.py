"""Remote and scripted language models behind one small protocol."""
