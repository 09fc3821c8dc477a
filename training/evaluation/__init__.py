"""Evaluation of models: scores, distances, diversity, verification, pictures.

`measure` runs it; its parts are `score` (every edit by the judge), `frechet`, `diversity`,
`verification`, `cost` and `diagnostics`, on formulas in `metrics`. The result is an `Evaluation`
(`records`, with its means from `summary`); `scorecard` renders it as the page evaluate.html,
`numbers` flattens it for MLflow, and `publish` stores it. `papers` has the papers' own protocols,
`perception` the networks of FID and LPIPS.
"""
