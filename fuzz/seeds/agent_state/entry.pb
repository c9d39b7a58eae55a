
e1
example.org/app
example.org/spire/agent/x"
unixuid:0