// What each call of the table takes, by number: one letter per argument (see `argument` in fuzz.c). tests/security/test_fuzz.py holds the
// list against the table. Calls that are missing here on purpose are in `LEFT_OUT`.
#pragma once

struct signature {
    int number;
    const char *arguments;
};

// rt_sigreturn, clone, fork, vfork and exit_group end or double the caller; `frames` and `sockets` try them. exit ends its thread.
#define LEFT_OUT {15, 56, 57, 58, 60, 231}

static const struct signature signatures[] = {
    {0, "fbl"}, {1, "fbl"}, {2, "pom"}, {3, "D"}, {4, "pb"}, {5, "fb"}, {6, "pb"}, {7, "bcj"}, {8, "fxW"}, {9, "gLPMfo"}, {10, "gLP"},
    {11, "gL"}, {12, "w"}, {13, "sqbz"}, {14, "iSbz"}, {16, "fKb"}, {17, "fblx"}, {18, "fblx"}, {19, "fvc"}, {20, "fvc"}, {21, "pi"},
    {22, "b"}, {23, "cbbbt"}, {24, ""}, {25, "gLLig"}, {26, "gLi"}, {27, "gLb"}, {28, "gLd"}, {32, "f"}, {33, "fD"}, {34, ""}, {35, "tb"},
    {36, "ib"}, {37, "j"}, {38, "iTb"}, {39, ""}, {40, "ffbl"}, {41, "iii"}, {42, "faA"}, {43, "faN"}, {44, "fbliaA"}, {45, "fbliaN"},
    {46, "fhi"}, {47, "fhi"}, {48, "fi"}, {49, "faA"}, {50, "fi"}, {51, "faN"}, {52, "faN"}, {53, "iiib"}, {54, "fiibl"}, {55, "fiibN"},
    {59, "Xbb"}, {61, "nbib"}, {62, "ns"}, {63, "b"}, {72, "fkx"}, {73, "fi"}, {74, "f"}, {75, "f"}, {76, "px"}, {77, "fx"}, {79, "bl"},
    {80, "p"}, {81, "f"}, {82, "pp"}, {83, "pm"}, {84, "p"}, {85, "pm"}, {86, "pp"}, {87, "p"}, {88, "pp"}, {89, "pbl"}, {90, "pm"},
    {91, "fm"}, {92, "puu"}, {93, "fuu"}, {94, "puu"}, {95, "m"}, {96, "bb"}, {97, "ib"}, {98, "ib"}, {99, "b"}, {100, "b"}, {102, ""},
    {104, ""}, {105, "u"}, {106, "u"}, {107, ""}, {108, ""}, {109, "nn"}, {110, ""}, {111, ""}, {112, ""}, {113, "uu"}, {114, "uu"},
    {115, "cb"}, {116, "cb"}, {117, "uuu"}, {118, "bbb"}, {119, "uuu"}, {120, "bbb"}, {121, "n"}, {124, "n"}, {127, "bz"}, {128, "Ebtz"},
    {129, "nsb"}, {130, "Ez"}, {131, "wb"}, {132, "pt"}, {133, "pmx"}, {137, "pb"}, {138, "fb"}, {140, "ii"}, {141, "iii"}, {142, "nb"},
    {143, "nb"}, {144, "nib"}, {145, "n"}, {146, "i"}, {147, "i"}, {148, "nb"}, {149, "gL"}, {150, "gL"}, {151, "i"}, {152, ""},
    {157, "Obbbb"}, {158, "Rb"}, {160, "rb"}, {162, ""}, {186, ""}, {188, "ppbli"}, {189, "ppbli"}, {190, "fpbli"}, {191, "ppbl"},
    {192, "ppbl"}, {193, "fpbl"}, {194, "pbl"}, {195, "pbl"}, {196, "fbl"}, {197, "pp"}, {198, "pp"}, {199, "fp"}, {200, "ns"}, {201, "b"},
    {202, "yYityx"}, {203, "nlb"}, {204, "nlb"}, {213, "i"}, {217, "fbl"}, {218, "b"}, {221, "fxli"}, {227, "it"}, {228, "ib"}, {229, "ib"},
    {230, "iitb"}, {232, "fbcj"}, {233, "fefb"}, {234, "nns"}, {235, "pT"}, {237, "gLibii"}, {239, "bblgi"}, {247, "inbib"}, {257, "Fpom"},
    {258, "Fpm"}, {259, "Fpmx"}, {260, "Fpuui"}, {261, "FpT"}, {262, "Fpbi"}, {263, "Fpi"}, {264, "FpFp"}, {265, "FpFpi"}, {266, "pFp"},
    {267, "Fpbl"}, {268, "Fpm"}, {269, "Fpi"}, {270, "cbbbtE"}, {271, "bctEz"}, {273, "bl"}, {280, "FpTi"}, {281, "fbcjEz"}, {283, "ii"},
    {284, "i"}, {285, "fixx"}, {286, "fiTb"}, {287, "fb"}, {288, "faNi"}, {290, "ii"}, {291, "i"}, {292, "fDo"}, {293, "bo"}, {295, "fvcx"},
    {296, "fvcx"}, {297, "nnsb"}, {302, "nrbb"}, {306, "f"}, {307, "fhbi"}, {309, "bbb"}, {316, "FpFpi"}, {318, "bli"}, {319, "pi"}, {322, "FXbbi"}, {324, "iii"},
    {326, "fbfbli"}, {327, "fvcxxi"}, {328, "fvcxxi"}, {332, "Fpiib"}, {334, "blii"}, {435, "bl"}, {436, "DDi"}, {439, "Fpii"},
};
#define SIGNATURES (sizeof signatures / sizeof *signatures)
