"""fal's platform API under `/v1` (host api.fal.ai too): what there is, what it costs, what was sent, who may call.

    door      who asks (an API key sees its own requests, an ADMIN key everything), errors in this API's own shape
    query     filters, pages and times of the query string
    models    /v1/models                            pricing   /v1/models/pricing, …/estimate
    reports   /v1/models/usage, …/analytics         requests  /v1/models/requests/…
    keys      /v1/keys                              account   /v1/account/billing, /v1/meta
    ours:  history /v1/requests  deliveries /v1/webhooks  system /v1/system  activity …/activity  installed …/models

On an open server everybody is the one local caller, who may do all of it. docs/platform-api.md.
"""
