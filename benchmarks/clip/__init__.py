"""How fast CLIP is: alone, over HTTP, beside other servers."""
