"""OpenAI's chat and text completions over HTTP, from anything that schedules requests.

body → fields → Request → the worker's thread → pieces → voices → JSON or a stream of it
"""
