"""The server as its clients see it: routes, who may ask, bodies, failures as replies, and the process around them."""
