from harness.commands.app import main

main()
