"""Signaling over HTTP: what a client, a browser or another media process may ask of the calls of this one.

`calls` is the border: HTTP on this side, the media process on the other. `realtime` speaks OpenAI's calls API on it,
`owner` passes on what belongs to another process, `page` is the page at `/`. `body` reads requests, `answers` words
errors, `access` says who may ask, `limits` how much, `server` puts all of it on listening sockets.
"""
