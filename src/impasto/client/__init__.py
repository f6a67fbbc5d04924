"""How programs written for fal reach an impasto server, unchanged.

    environment   the variables to set, for both methods, given the ones that are set already
    execute       `impasto exec -- COMMAND…`: probe the server, set the variables, become the command
    shims/        method "shim": what those variables load into Python (sitecustomize) and Node.js (--require)
    connect       method "connect": an HTTPS proxy for fal's hosts and the TLS side behind it; fal's real host names
    hosts         which hosts are fal's, which URL can be a server's
    ca            the certificate authority that the TLS side needs; it can vouch for fal's hosts only
    watch         `impasto watch ID`: one request, followed to its pictures in a terminal
    __main__      `python -m impasto.client`: the listener by itself, the variables for a shell

In: a command line and a server's URL. Out: a running program whose calls to fal end at that server.
"""
