from paddock.cli.main import run

run()
