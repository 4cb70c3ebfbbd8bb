package pgtest

import "syscall"

// dieWithParent ends a process with the thread that started it, and so with the tests, also if they
// are killed.
func dieWithParent(a *syscall.SysProcAttr) { a.Pdeathsig = syscall.SIGQUIT }
